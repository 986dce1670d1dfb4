// The page: connects its parts. Start reading here.

import { Api } from "./api.js";
import { byId } from "./dom.js";
import { Exports } from "./exports.js";
import { Queue } from "./queue.js";
import { Recorder } from "./recorder.js";
import { ResultView } from "./result_view.js";

const NO_SEARCH = "Not offered by this server: it needs --lm.decoder=beam.";

const api = new Api();
const view = new ResultView();
const exported = new Exports(api);
const hotWords = () => byId("hot-words").value;

const queue = new Queue(api, {
  onShow: (recording) => {
    view.show(recording);
    exported.show(recording);
  },
  onFailure: noticeFailure,
});

new Recorder(api, {
  hotWords,
  onRecording: (file) => queue.add([file], hotWords()),
  onFailure: noticeFailure,
});

function noticeFailure({ status }) {
  if (status !== 401 || !byId("key-form").hidden) return;
  byId("key-form").hidden = false;
  byId("key").focus();
}

async function describeModel() {
  try {
    const { id, streaming, search } = await api.model();
    byId("model").textContent = `Model: ${id}`;
    byId("record-hint").textContent = `Text appears ${streaming ? "while you speak" : "after each pause"}.`;
    byId("hot-words").disabled = byId("alternatives").hidden = !search;
    if (!search) byId("hot-words-hint").textContent = byId("alternatives-hint").textContent = NO_SEARCH;
  } catch (failure) {
    noticeFailure(failure);
  }
}

byId("key-form").onsubmit = (event) => {
  event.preventDefault();
  api.key = byId("key").value;
  describeModel();
  queue.retryRefused();
};

byId("choose").onclick = () => byId("files").click();
byId("files").onchange = ({ target }) => {
  queue.add(target.files, hotWords());
  target.value = ""; // the same file may be chosen again
};

for (const kind of ["dragover", "drop", "dragleave"]) {
  window.addEventListener(kind, (event) => {
    const over = byId("drop").contains(event.target);
    event.preventDefault(); // a file that misses the place must not replace the page
    byId("drop").classList.toggle("over", kind === "dragover" && over);
    if (kind === "drop" && event.dataTransfer.files.length) queue.add(event.dataTransfer.files, hotWords());
  });
}

describeModel();
