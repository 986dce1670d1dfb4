// In the audio thread: collects the samples of the microphone, one channel, in blocks.

const BLOCK = 2048; // samples: 128 ms at 16 kHz

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.count = 0;
    this.port.onmessage = () => this.flush({ last: true });
  }

  process([channels]) {
    const samples = channels[0] ?? [];
    for (let i = 0; i < samples.length; i += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.block[this.count] = sum / channels.length;
      this.count += 1;
      if (this.count === BLOCK) this.flush();
    }
    return true;
  }

  flush({ last = false } = {}) {
    this.port.postMessage({ samples: this.block.slice(0, this.count), last });
    this.count = 0;
  }
}

registerProcessor("capture", Capture);
