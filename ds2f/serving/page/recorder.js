// The card "Record": microphone, level, live text. A finished recording becomes a file of the queue.

import { explain } from "./api.js";
import { announce, byId, clock, showProblem } from "./dom.js";
import { LiveSession } from "./live_session.js";
import { openMicrophone, whyNoMicrophone } from "./microphone.js";
import { toPcm16, wavFile } from "./wav.js";

const FLOOR = -60; // decibels below full scale that the level shows as nothing

/** Position of the level for samples: 0 is silence, 1 is full scale. */
export function level(samples) {
  const peak = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return Math.max(0, 1 - (20 * Math.log10(peak || 1e-9)) / FLOOR);
}

/** The button and what belongs to it. */
export class Recorder {
  #api;
  #options;
  #microphone = null;
  #live = null;
  #parts = [];
  #count = 0; // samples
  #taken = 0; // recordings

  /**
   * @param {Api} api
   * @param {object} options
   * @param {() => string} options.hotWords
   * @param {(file: File) => void} options.onRecording takes a finished recording.
   * @param {(failure: Failure) => void} options.onFailure of the session.
   */
  constructor(api, options) {
    this.#api = api;
    this.#options = options;
    byId("record").onclick = () => (this.#microphone ? this.#stop() : this.#start());
    window.addEventListener("beforeunload", (event) => this.#microphone && event.preventDefault()); // asks first
  }

  async #start() {
    byId("record").disabled = true;
    showProblem(byId("record-problem"), "");
    byId("finals").textContent = byId("partial").textContent = "";
    [this.#parts, this.#count] = [[], 0];
    try {
      this.#microphone = await openMicrophone(
        (samples) => this.#take(samples),
        () => this.#stop("The microphone was disconnected. What it recorded until then is kept."),
      );
    } catch (error) {
      showProblem(byId("record-problem"), whyNoMicrophone(error));
      return;
    } finally {
      byId("record").disabled = false;
    }
    this.#begin();
    byId("live").hidden = false;
    byId("record").textContent = "Stop recording";
    byId("record").classList.add("recording");
    announce("Recording.");
  }

  #begin() {
    this.#live = new LiveSession(this.#api, {
      rate: this.#microphone.rate,
      hotWords: splitHotWords(this.#options.hotWords()),
      onPartial: (text) => {
        byId("partial").textContent = text;
        follow();
      },
      onFinal: (text) => {
        byId("partial").textContent = "";
        byId("finals").append(`${text} `);
        follow();
      },
      onLost: (failure) => {
        this.#live = null;
        const rest = "The recording goes on, and is transcribed when you stop.";
        showProblem(byId("record-problem"), `${explain(failure)} ${this.#microphone ? rest : ""}`);
        this.#options.onFailure(failure);
      },
    });
  }

  #take(samples) {
    this.#parts.push(samples);
    this.#count += samples.length;
    this.#live?.send(samples);
    byId("level").value = level(samples);
    if (this.#microphone) byId("clock").textContent = clock(this.#count / this.#microphone.rate);
  }

  async #stop(problem = "") {
    const [microphone, button] = [this.#microphone, byId("record")];
    if (button.disabled) return; // it is being stopped
    button.disabled = true;
    if (problem) showProblem(byId("record-problem"), problem);
    await microphone.close();
    this.#microphone = null;
    await this.#live?.finish();
    this.#live = null;
    byId("level").value = 0;
    button.textContent = "Start recording";
    button.classList.remove("recording");
    button.disabled = false;
    this.#taken += 1;
    const name = `Recording ${this.#taken}.wav`;
    if (this.#count) this.#options.onRecording(wavFile(this.#parts.map(toPcm16), microphone.rate, name));
  }
}

/** Scrolls to the newest text. */
function follow() {
  byId("live").scrollTop = byId("live").scrollHeight;
}

/** The words and phrases of a field. */
export function splitHotWords(text) {
  return text
    .split(/[,\n]/)
    .map((part) => part.trim())
    .filter(Boolean);
}
