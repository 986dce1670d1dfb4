// Waveform and spectrogram on canvases, of the part of a recording that is visible.

import { clock } from "./dom.js";
import { Fourier } from "./fourier.js";

const RATE = 16000; // hertz, at which recordings are drawn
const LONGEST = 1800; // seconds: an hour takes 230 MB as samples
const RANGE = 70; // decibels from the darkest to the brightest
const FONT = "11px system-ui, sans-serif";
const AXIS = 16; // pixels below the waveform for the times

/**
 * The samples of a recording, for drawing.
 * @param {Blob} file
 * @param {number} duration seconds, as the server has measured it.
 * @returns {Promise<{samples: Float32Array, rate: number}>} one channel.
 * @throws {Error} with the reason for people.
 */
export async function samplesOf(file, duration) {
  if (duration > LONGEST) throw new Error(`Recordings above ${LONGEST / 60} minutes are not drawn.`);
  const context = new OfflineAudioContext(1, 1, RATE);
  let decoded;
  try {
    decoded = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error("This browser cannot play or draw recordings of this format. The transcript is complete.");
  }
  const samples = decoded.getChannelData(0);
  for (let channel = 1; channel < decoded.numberOfChannels; channel += 1) {
    decoded.getChannelData(channel).forEach((value, i) => (samples[i] += value));
  }
  if (decoded.numberOfChannels > 1) samples.forEach((value, i) => (samples[i] = value / decoded.numberOfChannels));
  return { samples, rate: RATE };
}

/** Prepares a canvas for its size on the page; returns its context, one unit a CSS pixel, and the size. */
function prepared(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  const context = canvas.getContext("2d");
  context.scale(density, density);
  return { context, width, height };
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Draws the waveform, and times below it.
 * @param {HTMLCanvasElement} canvas
 * @param {{samples: Float32Array, rate: number}} sound
 * @param {number} start seconds at the left edge.
 * @param {number} scale pixels per second.
 */
export function drawWaveform(canvas, { samples, rate }, start, scale) {
  const { context, width, height } = prepared(canvas);
  const middle = (height - AXIS) / 2;
  context.fillStyle = color("--accent");
  for (let x = 0; x < width; x += 1) {
    const [first, last] = [0, 1].map((i) => Math.floor((start + (x + i) / scale) * rate));
    if (first >= samples.length) break;
    const peak = samples.subarray(first, Math.max(last, first + 1)).reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    const half = Math.max(0.5, Math.min(1, peak) * middle);
    context.fillRect(x, middle - half, 1, 2 * half);
  }
  drawTimes(context, { start, scale, width, height, end: samples.length / rate });
}

function drawTimes(context, { start, scale, width, height, end }) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60].find((seconds) => seconds * scale >= 56) ?? 60;
  context.fillStyle = context.strokeStyle = color("--muted");
  context.font = FONT;
  for (let i = Math.ceil(start / step); i * step <= Math.min(end, start + width / scale); i += 1) {
    const x = (i * step - start) * scale;
    const label = clock(i * step + 1e-6, { tenths: step < 1 });
    if (x + context.measureText(label).width + 3 > width) break;
    context.fillRect(x, height - AXIS, 1, 5);
    context.fillText(label, x + 3, height - 4);
  }
}

/** Draws the spectrogram, low frequencies at the bottom; arguments as of `drawWaveform`. */
export function drawSpectrogram(canvas, { samples, rate }, start, scale) {
  const { context, width, height } = prepared(canvas);
  const columns = Math.min(Math.floor(width), Math.ceil((samples.length / rate - start) * scale));
  if (columns < 1) return;
  const fourier = new Fourier(512);
  const found = Array.from({ length: columns }, (_, x) => fourier.decibels(samples, (start + x / scale) * rate));
  const brightest = found.reduce((most, column) => column.reduce((peak, value) => Math.max(peak, value), most), -80);
  const palette = paletteOf(color("--spectrum-low"), color("--spectrum-high"));
  const bins = fourier.size / 2;
  const image = new ImageData(columns, bins);
  const pixels = new Uint32Array(image.data.buffer);
  found.forEach((column, x) => {
    for (let bin = 0; bin < bins; bin += 1) {
      const bright = Math.max(0, Math.min(1, 1 + (column[bin] - brightest) / RANGE));
      pixels[(bins - 1 - bin) * columns + x] = palette[Math.round(255 * bright)];
    }
  });
  const drawn = new OffscreenCanvas(columns, bins);
  drawn.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(drawn, 0, 0, columns, height);
  drawFrequencies(context, rate, height);
}

function drawFrequencies(context, rate, height) {
  context.font = FONT;
  for (const share of [0.25, 0.5, 0.75]) {
    const [y, label] = [height * (1 - share), `${(share * rate) / 2000} kHz`];
    context.fillStyle = color("--card");
    context.fillRect(0, y - 8, context.measureText(label).width + 8, 16);
    context.fillStyle = color("--muted");
    context.fillText(label, 4, y + 4);
  }
}

/** 256 colours from one to the other, as pixels of an image. Colours are `#rrggbb`. */
function paletteOf(low, high) {
  const channels = (text) => [1, 3, 5].map((i) => Number.parseInt(text.slice(i, i + 2), 16));
  const [from, to] = [channels(low), channels(high)];
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const [red, green, blue] = from.map((value, c) => Math.round(value + ((to[c] - value) * i) / 255));
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
}
