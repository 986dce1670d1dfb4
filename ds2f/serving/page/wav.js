// Samples as 16-bit PCM and as WAV files.

/** Samples [n], full scale 1, as 16-bit integers; louder ones are clipped. */
export function toPcm16(samples) {
  return Int16Array.from(samples, (value) => Math.round(Math.max(-1, Math.min(1, value)) * 32767));
}

/**
 * A WAV file of one channel.
 * @param {Int16Array[]} parts samples in order.
 * @param {number} rate samples per second.
 * @param {string} name of the file.
 */
export function wavFile(parts, rate, name) {
  const bytes = 2 * parts.reduce((count, part) => count + part.length, 0);
  const header = new DataView(new ArrayBuffer(44));
  const put = (offset, text) => [...text].forEach((letter, i) => header.setUint8(offset + i, letter.charCodeAt(0)));
  put(0, "RIFF");
  header.setUint32(4, 36 + bytes, true);
  put(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  put(36, "data");
  header.setUint32(40, bytes, true);
  return new File([header, ...parts], name, { type: "audio/wav" });
}
