// The transcript of one recording: player, timeline, words.

import { explain } from "./api.js";
import { fillLegend } from "./confidence.js";
import { byId, clock, showProblem } from "./dom.js";
import { samplesOf } from "./drawing.js";
import { Timeline } from "./timeline.js";
import { WordList } from "./word_list.js";

/** The section "Transcript". */
export class ResultView {
  #recording = null;
  #words = [];
  #player = byId("player");
  #frame = 0;
  #address = ""; // of what is played

  constructor() {
    const play = (seconds) => this.#play(seconds);
    this.timeline = new Timeline(play);
    this.list = new WordList(byId("words"), play);
    fillLegend(byId("legend"));
    byId("numbers").onchange = ({ target }) => byId("words").classList.toggle("with-numbers", target.checked);
    this.#player.onplay = () => this.#follow();
    this.#player.onseeked = () => this.#mark();
  }

  /** Shows a recording in its present state; null: none. */
  show(recording) {
    const done = recording?.state === "done";
    byId("result-title").textContent = recording ? `Transcript of ${recording.file.name}` : "Transcript";
    byId("result-empty").hidden = Boolean(recording);
    byId("result-content").hidden = !done;
    const failed = recording?.state === "failed" || recording?.state === "busy";
    const again = recording?.state === "busy" ? " This page tries again by itself." : "";
    showProblem(byId("result-problem"), failed ? `${explain(recording.failure)}${again}` : "");
    if (recording && !done && !failed) {
      byId("result-empty").hidden = false;
      byId("result-empty").textContent = "The transcript appears here as soon as the server has it.";
    }
    if (recording === this.#recording && done) return;
    this.#recording = done ? recording : null;
    this.#player.removeAttribute("src");
    this.#player.load();
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = "";
    if (done) this.#showTranscript(recording);
  }

  async #showTranscript(recording) {
    const { words, segments, duration, notes = [] } = recording.transcript;
    this.#words = words;
    const seconds = clock(duration, { tenths: true });
    const remarks = notes.map((note) => `Note: ${note}.`);
    byId("facts").textContent = [`${seconds} long, ${words.length} words.`, ...remarks].join(" ");
    this.list.show(words, segments);
    byId("no-words").hidden = words.length > 0;
    this.#address = URL.createObjectURL(recording.file);
    this.#player.src = this.#address;
    this.#setPlayable(true);
    this.timeline.show(null, words, duration);
    const { sound, reason } = await samplesOf(recording.file, duration).then(
      (found) => ({ sound: found, reason: "" }),
      (error) => ({ sound: null, reason: error.message }),
    );
    if (recording !== this.#recording) return; // another one is shown by now
    byId("no-drawing").textContent = reason;
    byId("no-drawing").hidden = !reason;
    this.timeline.show(sound, words, duration);
    if (this.#player.error) this.#setPlayable(false);
    this.#player.onerror = () => this.#setPlayable(false);
  }

  #setPlayable(playable) {
    this.#player.hidden = !playable;
    byId("words-hint").textContent = playable
      ? "Press a word to play from it. The arrow keys move between words."
      : "The arrow keys move between words.";
  }

  #play(seconds) {
    if (this.#player.hidden) return;
    this.#player.currentTime = seconds;
    this.#player.play().catch(() => this.#setPlayable(!this.#player.error));
  }

  #follow() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      this.#mark();
      if (!this.#player.paused) this.#follow();
    });
  }

  #mark() {
    const now = this.#player.currentTime;
    this.timeline.playhead(now);
    this.list.mark(this.#words.findLastIndex(({ start, end }) => start <= now && now < end + 0.05));
  }
}
