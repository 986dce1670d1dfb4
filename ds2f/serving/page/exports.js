// Copy, download and alternatives of the recording that is shown. The server writes the formats.

import { Failure, explain, parsed } from "./api.js";
import { byId, clock, element, showProblem } from "./dom.js";

const SUFFIXES = { text: "txt", srt: "srt", vtt: "vtt", verbose_json: "json" };
const NBEST = 5;

/** The buttons below the words. */
export class Exports {
  #api;
  #recording = null;

  constructor(api) {
    this.#api = api;
    byId("copy").onclick = () => this.#export((body) => copy(body));
    byId("download").onclick = () => this.#export((body, format) => this.#download(body, format));
    byId("alternatives").onclick = () => this.#showAlternatives();
  }

  /** Takes the recording that is shown. */
  show(recording) {
    if (recording === this.#recording) return;
    this.#recording = recording;
    tell("");
    byId("alternatives-list").hidden = true;
    byId("alternatives").disabled = false;
    showProblem(byId("alternatives-problem"), "");
  }

  async #export(use) {
    const [format, recording] = [byId("format").value, this.#recording];
    tell("Asking the server …");
    try {
      tell(await use(await this.#body(recording, format), format));
    } catch (error) {
      tell(error instanceof Failure ? explain(error) : error.message, "problem");
    }
  }

  #body(recording, format) {
    return format === "text" ? `${recording.transcript.text}\n` : recording.body(this.#api, format);
  }

  #download(body, format) {
    const name = `${this.#recording.file.name.replace(/\.[^.]*$/, "")}.${SUFFIXES[format]}`;
    const address = URL.createObjectURL(new Blob([body], { type: "text/plain" }));
    element("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    return `Saved as ${name}.`;
  }

  async #showAlternatives() {
    const [list, recording] = [byId("alternatives-list"), this.#recording];
    byId("alternatives").disabled = true;
    showProblem(byId("alternatives-problem"), "");
    try {
      const { file, hotWords, cancel } = recording;
      const options = { format: "verbose_json", hotWords, nbest: NBEST, signal: cancel.signal };
      const { segments } = parsed(await this.#api.transcribe(file, options));
      if (recording !== this.#recording) return;
      list.replaceChildren(...segments.map(readings));
      list.hidden = false;
    } catch (error) {
      if (recording !== this.#recording) return;
      byId("alternatives").disabled = false;
      showProblem(byId("alternatives-problem"), error instanceof Failure ? explain(error) : error.message);
    }
  }
}

/** Says below the buttons how an export goes. */
function tell(message, className = "hint") {
  Object.assign(byId("export-state"), { textContent: message, className });
}

async function copy(body) {
  if (!navigator.clipboard) throw new Error("Browsers copy on secure pages only. Download the file instead.");
  try {
    await navigator.clipboard.writeText(body);
  } catch {
    throw new Error("The browser did not allow to copy. Download the file instead.");
  }
  return "Copied.";
}

function readings({ start, text, alternatives = [text] }) {
  const time = element("span", { className: "hint" }, clock(start, { tenths: true }));
  const texts = alternatives.map((each) => element("li", {}, each || "(no words)"));
  return element("li", {}, time, element("ol", {}, ...texts));
}
