// Requests to the server: OpenAI's form for recordings, Vosk's messages for sessions.

/** A request without a result. */
export class Failure extends Error {
  /**
   * @param {number} status of HTTP; 0: no answer came.
   * @param {string} message of the server.
   * @param {number} wait seconds until another try makes sense; 0: unknown.
   */
  constructor(status, message = "", wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

const REASONS = {
  0: "The connection to the server was lost. Check the network, then try again.",
  400: "The server does not understand the request.",
  401: "The server asks for a key. Enter it under “Key”.",
  408: "The upload took too long. Try again, or send a shorter recording.",
  413: "The recording is too large or too long for this server.",
  415: "The server cannot read this format.",
  422: "The server cannot transcribe this recording.",
  429: "The server is busy.",
  500: "The server failed at this recording. Its log has the cause.",
  502: "The server does not answer behind its proxy. Try again later.",
  503: "The server takes no more work now. Try again later.",
  504: "The transcript took too long. Send a shorter recording.",
};

/** What a failure means, and what to do, for people. */
export function explain(failure) {
  const reason = REASONS[failure.status] ?? `The server refused the request (status ${failure.status}).`;
  const wait = failure.wait ? ` It asks to wait for ${failure.wait} s.` : "";
  const detail = failure.message ? ` The server says: ${failure.message.replace(/([^.!?])$/, "$1.")}` : "";
  return `${reason}${wait}${failure.status === 401 ? "" : detail}`;
}

/** The server, with the key that the user has entered. */
export class Api {
  key = "";

  /** The model: `id`; `streaming`: there is partial text; `search`: hot words and alternatives have an effect. */
  async model() {
    return parsed(await this.#request("v1/models")).data[0];
  }

  /**
   * Transcribes a recording.
   * @param {File} file
   * @param {object} options
   * @param {string} options.format of OpenAI's `response_format`.
   * @param {string} options.hotWords separated by commas.
   * @param {number} options.nbest readings of each segment.
   * @param {AbortSignal} options.signal
   * @returns {Promise<string>} the body of the answer.
   * @throws {Failure}
   */
  transcribe(file, { format, hotWords = "", nbest = 1, signal }) {
    const form = new FormData();
    form.append("file", file, file.name);
    form.append("model", "default");
    form.append("response_format", format);
    if (hotWords) form.append("prompt", hotWords);
    if (nbest > 1) form.append("nbest", String(nbest));
    if (format === "verbose_json") {
      form.append("timestamp_granularities[]", "word");
      form.append("timestamp_granularities[]", "segment");
    }
    return this.#request("v1/audio/transcriptions", { method: "POST", body: form, signal });
  }

  /** A WebSocket for a session. A browser sends a key as a subprotocol only. */
  openSocket() {
    const address = new URL("v1/stream", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    const key = encodeURIComponent(this.key).replace(/[()]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`);
    const socket = new WebSocket(address, key ? ["ds2f", `key.${key}`] : []);
    socket.binaryType = "arraybuffer";
    return socket;
  }

  /** Why a session was refused: a browser does not tell the status of a refused WebSocket. */
  async whyRefused() {
    try {
      await this.model();
    } catch (failure) {
      return failure;
    }
    return new Failure(503);
  }

  async #request(path, { signal, ...options } = {}) {
    const headers = this.key ? { authorization: `Bearer ${this.key}` } : {};
    let answer;
    let body;
    try {
      answer = await fetch(new URL(path, document.baseURI), { headers, signal, ...options });
      body = await answer.text();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Failure(0);
    }
    if (answer.ok) return body;
    throw new Failure(answer.status, messageOf(body), Number(answer.headers.get("retry-after")) || 0);
  }
}

/** An answer as an object. @throws {Failure} something else than the server has answered. */
export function parsed(body) {
  try {
    return JSON.parse(body);
  } catch {
    throw new Failure(502);
  }
}

function messageOf(body) {
  try {
    return String(JSON.parse(body).error.message);
  } catch {
    return "";
  }
}
