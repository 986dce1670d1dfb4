// The words of a transcript as text: one stop of the Tab key, arrow keys within.

import { classOf, percent, shade } from "./confidence.js";
import { clock, element, reveal } from "./dom.js";

const MOVES = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };

/** Words in a container, a paragraph for each segment. */
export class WordList {
  #container;
  #buttons = [];
  #current = -1;

  /**
   * @param {HTMLElement} container
   * @param {(seconds: number) => void} onPlay called with the start of a chosen word.
   */
  constructor(container, onPlay) {
    this.#container = container;
    container.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (!button) return;
      this.#focus(this.#buttons.indexOf(button));
      onPlay(Number(button.dataset.start));
    });
    container.addEventListener("keydown", (event) => {
      const move = MOVES[event.key];
      if (move === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const here = this.#buttons.indexOf(document.activeElement);
      this.#focus(Math.max(0, Math.min(this.#buttons.length - 1, here + move)));
    });
  }

  /**
   * Shows words.
   * @param {{word: string, start: number, end: number, confidence: number}[]} words
   * @param {{text: string}[]} segments in order, whose texts are the words.
   */
  show(words, segments) {
    this.#buttons = words.map(wordButton);
    this.#current = -1;
    const left = [...this.#buttons];
    const paragraphs = segments
      .map(({ text }) => left.splice(0, text.split(/\s+/).filter(Boolean).length))
      .concat([left])
      .filter((buttons) => buttons.length);
    this.#container.replaceChildren(
      ...paragraphs.map((buttons) => element("p", {}, ...buttons.flatMap((button) => [button, " "]))),
    );
    if (this.#buttons.length) this.#buttons[0].tabIndex = 0;
  }

  /** Marks the word that is played. */
  mark(index) {
    if (index === this.#current) return;
    this.#buttons[this.#current]?.removeAttribute("aria-current");
    this.#buttons[index]?.setAttribute("aria-current", "true");
    this.#current = index;
    if (index >= 0) reveal(this.#container, this.#buttons[index]);
  }

  #focus(index) {
    this.#buttons.forEach((button) => (button.tabIndex = -1));
    this.#buttons[index].tabIndex = 0;
    this.#buttons[index].focus();
  }
}

function wordButton({ word, start, confidence }) {
  return element(
    "button",
    { type: "button", className: "word", tabIndex: -1, title: describe(start, confidence), dataset: { start } },
    element("span", shade(classOf(confidence)), word),
    element("span", { className: "number" }, ` ${percent(confidence)}`),
  );
}

const describe = (start, confidence) => `at ${clock(start, { tenths: true })}, confidence ${percent(confidence)}`;
