// Waveform, spectrogram and words over time: a track as long as the recording, of which only what is visible is drawn.

import { classOf, percent } from "./confidence.js";
import { byId, clock, element } from "./dom.js";
import { drawSpectrogram, drawWaveform } from "./drawing.js";

const [LEAST, USUAL, MOST] = [12.5, 100, 800]; // pixels per second
const LANES = 4; // rows of words; one that fits into none is a bar without text, below them
const GAP = 6; // pixels between words
const MARGIN = 60; // pixels
const LANE_HEIGHT = 24; // pixels

/** The timeline of the page. */
export class Timeline {
  #sound = null;
  #words = [];
  #placed = [];
  #duration = 0;
  #scale = USUAL; // pixels per second
  #drawing = 0; // the number of a frame that was asked for
  #measure = new OffscreenCanvas(1, 1).getContext("2d");

  /** @param {(seconds: number) => void} onPlay called with the time of a click. */
  constructor(onPlay) {
    this.view = byId("timeline");
    byId("zoom-in").onclick = () => this.#setScale(this.#scale * 2);
    byId("zoom-out").onclick = () => this.#setScale(this.#scale / 2);
    byId("track").onclick = (event) => {
      const x = event.clientX - byId("track").getBoundingClientRect().left;
      onPlay(Math.max(0, Math.min(this.#duration, Number(event.target.dataset.start ?? x / this.#scale))));
    };
    this.view.onscroll = () => this.#draw();
    new ResizeObserver(() => this.#draw()).observe(this.view);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /**
   * Shows a recording from its beginning.
   * @param {?{samples: Float32Array, rate: number}} sound null: words only.
   * @param {{word: string, start: number, end: number, confidence: number}[]} words
   * @param {number} duration seconds.
   */
  show(sound, words, duration) {
    [this.#sound, this.#words, this.#duration] = [sound, words, duration];
    byId("pane").hidden = !sound;
    this.view.scrollLeft = 0;
    this.#setScale(Math.max(USUAL, this.#filling)); // a short recording fills the view
    this.view.scrollLeft = 0;
    this.playhead(null);
  }

  /** Marks a time that is played, and keeps it visible; null: none. */
  playhead(seconds) {
    const line = byId("playhead");
    line.hidden = seconds === null;
    if (seconds === null) return;
    const [x, { scrollLeft, clientWidth }] = [seconds * this.#scale, this.view];
    line.style.left = `${x}px`;
    if (x < scrollLeft || x > scrollLeft + clientWidth) this.view.scrollLeft = Math.max(0, x - clientWidth / 8);
  }

  /** The scale at which the recording fills the view, with room for a word at its end. */
  get #filling() {
    return (this.view.clientWidth - MARGIN) / Math.max(this.#duration, 0.1);
  }

  #setScale(scale) {
    const centre = (this.view.scrollLeft + this.view.clientWidth / 2) / this.#scale;
    const least = Math.min(MOST, Math.max(LEAST, this.#filling));
    this.#scale = Math.max(least, Math.min(MOST, scale));
    byId("zoom-out").disabled = this.#scale <= least;
    byId("zoom-in").disabled = this.#scale >= MOST;
    this.#measure.font = `14px ${getComputedStyle(document.body).fontFamily}`;
    this.#placed = place(this.#words, this.#scale, (text) => this.#measure.measureText(text).width);
    const rows = Math.max(1, ...this.#placed.map(({ lane }) => lane + 1));
    const reach = Math.max(0, ...this.#placed.map(({ left, width }) => left + width));
    byId("lanes").style.height = `${rows * LANE_HEIGHT}px`;
    byId("track").style.width = `${Math.ceil(Math.max(this.#duration * this.#scale, reach))}px`;
    this.view.scrollLeft = centre * this.#scale - this.view.clientWidth / 2;
    this.#draw();
  }

  #draw() {
    cancelAnimationFrame(this.#drawing);
    this.#drawing = requestAnimationFrame(() => {
      const { scrollLeft, clientWidth } = this.view;
      if (!clientWidth) return;
      byId("pane").style.width = `${clientWidth}px`;
      const [begin, end] = [scrollLeft - clientWidth, scrollLeft + 2 * clientWidth];
      const visible = ({ left, width }) => left + width >= begin && left <= end;
      byId("lanes").replaceChildren(...this.#placed.filter(visible).map(placedWord));
      if (!this.#sound) return;
      drawWaveform(byId("waveform"), this.#sound, scrollLeft / this.#scale, this.#scale);
      drawSpectrogram(byId("spectrogram"), this.#sound, scrollLeft / this.#scale, this.#scale);
    });
  }
}

/**
 * Places words in lanes, so that none covers another.
 * @param {object[]} words with `word`, `start` and `end`, seconds.
 * @param {number} scale pixels per second.
 * @param {(text: string) => number} widthOf text, pixels.
 */
export function place(words, scale, widthOf) {
  const reached = Array(LANES).fill(-Infinity);
  return words.map((word) => {
    const left = word.start * scale;
    const bar = Math.max(2, (word.end - word.start) * scale);
    const width = Math.max(bar, widthOf(word.word) + 10);
    const lane = reached.findIndex((end) => end + GAP <= left);
    if (lane >= 0) {
      reached[lane] = left + width;
      return { word, left, lane, width, shown: true };
    }
    return { word, left, lane: LANES, width: bar, shown: false };
  });
}

function placedWord({ word, left, lane, width, shown }) {
  const made = element(
    "span",
    {
      className: shown ? "placed" : "placed bar",
      title: `${word.word}, ${clock(word.start, { tenths: true })}, ${percent(word.confidence)}`,
      dataset: { start: word.start, confidence: classOf(word.confidence) },
    },
    shown ? word.word : "",
  );
  made.style.left = `${left}px`;
  made.style.top = `${lane * LANE_HEIGHT}px`;
  made.style.width = `${width}px`;
  return made;
}
