// The list of recordings: two are sent at a time, the others wait.

import { Failure, explain, parsed } from "./api.js";
import { announce, byId, element, reveal } from "./dom.js";

const AT_A_TIME = 2;
const MOST_TRIES = 10; // of a busy server
const stacked = matchMedia("(max-width: 999px)"); // the transcript is below the list

/** What is transcribed. States: waiting, sending, busy (the server is; `wait` seconds are left), done, failed. */
export class Recording {
  state = "waiting";
  failure = null;
  transcript = null; // verbose_json as an object
  bodies = {}; // answers by format, as they came
  tries = 0;
  wait = 0;
  timer = 0; // counts the seconds of `wait`
  cancel = new AbortController();

  constructor(file, hotWords) {
    this.file = file;
    this.hotWords = hotWords;
  }

  /** The body of the answer in a format; asks the server once. */
  async body(api, format) {
    const { hotWords, cancel } = this;
    this.bodies[format] ??= await api.transcribe(this.file, { format, hotWords, signal: cancel.signal });
    return this.bodies[format];
  }
}

/** Recordings in order, and which is shown. */
export class Queue {
  #api;
  #options;
  #recordings = [];
  #shown = null;

  /**
   * @param {Api} api
   * @param {object} options
   * @param {(recording: ?Recording) => void} options.onShow takes the recording to show, also when its state changes.
   * @param {(failure: Failure) => void} options.onFailure of any recording.
   */
  constructor(api, options) {
    this.#api = api;
    this.#options = options;
  }

  /** Adds files; the first one of them is shown. */
  add(files, hotWords) {
    const added = [...files].map((file) => new Recording(file, hotWords));
    this.#recordings.push(...added);
    if (added.length) this.show(added[0]);
    this.#advance();
  }

  /** Tries again what failed for want of a key. */
  retryRefused() {
    this.#recordings.filter(({ failure }) => failure?.status === 401).forEach((recording) => this.retry(recording));
  }

  /** Tries a recording again. */
  retry(recording) {
    clearInterval(recording.timer);
    Object.assign(recording, { state: "waiting", failure: null, tries: 0, wait: 0 });
    this.#advance();
  }

  /** Shows a recording. */
  show(recording) {
    this.#shown = recording;
    this.#render();
    this.#options.onShow(recording);
    const name = byId("queue").querySelector("[aria-current]");
    if (name) reveal(byId("queue"), name.parentElement);
  }

  #remove(recording) {
    const index = this.#recordings.indexOf(recording);
    recording.cancel.abort();
    clearInterval(recording.timer);
    this.#recordings.splice(index, 1);
    if (recording === this.#shown) this.show(this.#recordings[Math.max(0, index - 1)] ?? null);
    this.#advance();
    (byId("queue").querySelectorAll(".name")[Math.max(0, index - 1)] ?? byId("choose")).focus();
  }

  #advance() {
    const sending = this.#recordings.filter(({ state }) => state === "sending").length;
    this.#recordings
      .filter(({ state }) => state === "waiting")
      .slice(0, AT_A_TIME - sending)
      .forEach((recording) => this.#send(recording));
    this.#render();
  }

  async #send(recording) {
    recording.state = "sending";
    recording.tries += 1;
    try {
      recording.transcript = parsed(await recording.body(this.#api, "verbose_json"));
      this.#change(recording, "done");
      announce(`${recording.file.name}: transcribed.`);
    } catch (error) {
      if (recording.cancel.signal.aborted) return;
      recording.failure = error instanceof Failure ? error : new Failure(0);
      if (recording.failure.status === 429 && recording.tries < MOST_TRIES) this.#waitFor(recording);
      else this.#change(recording, "failed");
      this.#options.onFailure(recording.failure);
    }
  }

  #waitFor(recording) {
    recording.wait = recording.failure.wait || 5;
    this.#change(recording, "busy");
    recording.timer = setInterval(() => {
      recording.wait -= 1;
      if (recording.wait > 0) return this.#render();
      clearInterval(recording.timer);
      return this.#change(recording, "waiting");
    }, 1000);
  }

  #change(recording, state) {
    recording.state = state;
    this.#advance();
    if (recording === this.#shown) this.#options.onShow(recording);
  }

  #render() {
    byId("queue-card").hidden = !this.#recordings.length;
    const focused = document.activeElement?.dataset?.focus;
    byId("queue").replaceChildren(...this.#recordings.map((recording, index) => this.#row(recording, index)));
    if (focused) byId("queue").querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }

  #row(recording, index) {
    const { name } = recording.file;
    const button = (text, onclick, { className = "", label = text } = {}) => {
      const [dataset, attributes] = [{ focus: `${label}-${index}` }, { "aria-label": label }];
      return element("button", { type: "button", className, onclick, dataset, attributes }, text);
    };
    const choose = () => {
      this.show(recording);
      if (stacked.matches) byId("result").scrollIntoView();
    };
    const chosen = button(name, choose, { className: "name" });
    if (recording === this.#shown) chosen.setAttribute("aria-current", "true");
    const failed = recording.state === "failed" || recording.state === "busy";
    return element(
      "li",
      { dataset: { state: recording.state } },
      chosen,
      element("span", { className: "state" }, stateOf(recording)),
      ...(failed ? [button("Try again", () => this.retry(recording), { label: `Try again: ${name}` })] : []),
      button("Remove", () => this.#remove(recording), { label: `Remove: ${name}` }),
    );
  }
}

function stateOf({ state, failure, wait }) {
  switch (state) {
    case "sending":
      return "Transcribing …";
    case "done":
      return "Done";
    case "failed":
      return explain(failure);
    case "busy":
      return `The server is busy. Next try in ${wait} s.`;
    default:
      return "Waiting";
  }
}
