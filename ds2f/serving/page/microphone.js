// The microphone: samples in blocks, and the reasons why there are none.

const RATE = 16000; // hertz; a browser that cannot have it gives its own, and the server resamples

const REASONS = {
  NotAllowedError: "This page may not use the microphone. Allow it in the browser's settings for this site.",
  NotFoundError: "No microphone was found. Connect one, then try again.",
  NotReadableError: "The microphone cannot be opened. Close other programs that use it, then try again.",
};

/** Why a microphone was not opened, for people. */
export function whyNoMicrophone(error) {
  if (!window.isSecureContext) {
    return "Browsers allow the microphone on secure pages only. Open this page over https, or at localhost.";
  }
  if (!navigator.mediaDevices) return "This browser offers no microphone.";
  return REASONS[error.name] ?? `The microphone cannot be opened (${error.name}).`;
}

/**
 * Opens the microphone.
 * @param {(samples: Float32Array) => void} onSamples called with blocks [n], full scale 1.
 * @param {() => void} onLost called if the microphone is disconnected.
 * @returns {Promise<{rate: number, close: () => Promise<void>}>} `close` resolves after the last block.
 * @throws a DOMException, or a TypeError where there is no access at all: see `whyNoMicrophone`.
 */
export async function openMicrophone(onSamples, onLost) {
  // Suppression of noise and echo removes parts of the sound that models are trained with.
  const wanted = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
  stream.getTracks().forEach((track) => (track.onended = onLost));
  const release = () => stream.getTracks().forEach((track) => track.stop());
  let context;
  let capture;
  try {
    ({ context, capture } = await connected(stream, RATE).catch(() => connected(stream)));
  } catch (error) {
    release();
    throw error;
  }
  let ended;
  const end = new Promise((resolve) => (ended = resolve));
  capture.port.onmessage = ({ data }) => {
    if (data.samples.length) onSamples(data.samples);
    if (data.last) ended();
  };
  return {
    rate: context.sampleRate,
    async close() {
      capture.port.postMessage("end");
      await end;
      release();
      await context.close();
    },
  };
}

async function connected(stream, sampleRate) {
  const context = new AudioContext(sampleRate ? { sampleRate } : {});
  try {
    await context.audioWorklet.addModule(new URL("capture_worklet.js", import.meta.url));
    const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    context.createMediaStreamSource(stream).connect(capture); // Firefox refuses another rate than the device's
    await context.resume();
    return { context, capture };
  } catch (error) {
    await context.close();
    throw error;
  }
}
