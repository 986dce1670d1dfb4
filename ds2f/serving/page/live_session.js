// A session with Vosk's messages: PCM goes out, partial and final text comes back.

import { Failure } from "./api.js";
import { toPcm16 } from "./wav.js";

const MOST_BUFFERED = 4_000_000; // bytes that wait for a slow network

/** A recording that is transcribed while it goes on. */
export class LiveSession {
  #socket;
  #opened = false;
  #waiting = []; // messages until the connection is open
  #ended;
  #end;
  #asked = false;

  /**
   * @param {Api} api
   * @param {object} options
   * @param {number} options.rate samples per second.
   * @param {string[]} options.hotWords
   * @param {(text: string) => void} options.onPartial text of the open segment.
   * @param {(text: string) => void} options.onFinal text of a segment that has ended.
   * @param {(failure: Failure) => void} options.onLost the session ended early.
   */
  constructor(api, { rate, hotWords, onPartial, onFinal, onLost }) {
    this.#ended = new Promise((resolve) => (this.#end = resolve));
    this.#socket = api.openSocket();
    this.#socket.onopen = () => {
      this.#opened = true;
      const config = { sample_rate: rate, words: false, ...(hotWords.length && { phrase_list: hotWords }) };
      this.#socket.send(JSON.stringify({ config }));
      this.#waiting.splice(0).forEach((message) => this.#socket.send(message));
    };
    this.#socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if ("partial" in message) onPartial(message.partial);
      else if (message.text) onFinal(message.text);
    };
    this.#socket.onclose = async ({ reason }) => {
      this.#end();
      if (this.#asked) return;
      onLost(this.#opened ? new Failure(0, reason) : await api.whyRefused());
    };
  }

  /** Sends samples [n], full scale 1. */
  send(samples) {
    if (this.#socket.bufferedAmount > MOST_BUFFERED) this.#socket.close();
    else this.#give(toPcm16(samples));
  }

  /** Ends the recording; resolves after the last text. */
  async finish() {
    this.#asked = true;
    this.#give(JSON.stringify({ eof: 1 }));
    await this.#ended;
  }

  #give(message) {
    if (this.#socket.readyState === WebSocket.CONNECTING) this.#waiting.push(message);
    else if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(message);
  }
}
