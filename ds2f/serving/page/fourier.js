// The discrete Fourier transform of real samples, and spectrogram columns.

/** A transform of `size` samples, a power of two. */
export class Fourier {
  constructor(size) {
    this.size = size;
    this.window = Float32Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size)); // Hann
    this.cosines = Float32Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.sines = Float32Array.from({ length: size / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / size));
    this.real = new Float32Array(size);
    this.imaginary = new Float32Array(size);
    const bits = Math.log2(size);
    this.order = Uint16Array.from({ length: size }, (_, i) => {
      let reversed = 0;
      for (let bit = 0; bit < bits; bit += 1) reversed |= ((i >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
  }

  /**
   * Power of the windowed samples around a sample, in decibels of a sine of full scale.
   * @param {Float32Array} samples of the recording; outside of it is silence.
   * @param {number} centre index of the sample.
   * @returns {Float32Array} [size / 2], from 0 hertz to half the sample rate.
   */
  decibels(samples, centre) {
    const { size, window, order, real, imaginary } = this;
    const begin = Math.round(centre) - size / 2;
    for (let i = 0; i < size; i += 1) real[order[i]] = (samples[begin + i] ?? 0) * window[i];
    imaginary.fill(0);
    this.#transform();
    const scale = 4 / size; // the window halves the amplitude, and half of it is at the negative frequency
    return Float32Array.from({ length: size / 2 }, (_, i) => {
      const power = (real[i] * real[i] + imaginary[i] * imaginary[i]) * scale * scale;
      return 10 * Math.log10(power + 1e-12);
    });
  }

  /** Cooley and Tukey's algorithm, in place; the samples are in bit-reversed order. */
  #transform() {
    const { size, real, imaginary, cosines, sines } = this;
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let begin = 0; begin < size; begin += 2 * half) {
        for (let i = 0; i < half; i += 1) {
          const [even, odd] = [begin + i, begin + i + half];
          const [cosine, sine] = [cosines[i * stride], -sines[i * stride]];
          const re = real[odd] * cosine - imaginary[odd] * sine;
          const im = real[odd] * sine + imaginary[odd] * cosine;
          real[odd] = real[even] - re;
          imaginary[odd] = imaginary[even] - im;
          real[even] += re;
          imaginary[even] += im;
        }
      }
    }
  }
}
