/* The data of a page: base64 -> inflated bytes -> scores and masses of one prompt; see lab/codes.py. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  const OCTAVES = 25, STEPS = 640;  // of a score's code: factors of two, and steps within each
  const SCORES = Float64Array.from({ length: OCTAVES * STEPS + 1 },
    (_, code) => code && (STEPS + code % STEPS) * 2 ** Math.floor(code / STEPS));

  const inflated = async text => {
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  // A prompt with the functions that the rules and metrics ask: layer l, KV head h, query head q.
  Lab.unpack = async data => {
    const { n, layers, heads, group, windows, probes } = data, bytes = await inflated(data.codes);
    const votes = windows.length * heads;
    const sizes = { votes, columns: heads, votesFine: votes, columnsFine: heads, keys: heads, values: heads,
      probes: heads * group * probes.length };
    const from = {};
    let end = 0;
    for (const name in sizes) { from[name] = end; end += layers * sizes[name] * n; }
    const row = (name, l, i) => {
      const start = from[name] + (l * sizes[name] + i) * n;
      return bytes.subarray(start, start + n);
    };
    const scores = (name, l, i) => {
      const fine = row(`${name}Fine`, l, i);
      return new Float64Array(row(name, l, i)).map((code, j) => SCORES[64 * code + fine[j]]);
    };
    const p = { ...data, codes: null };
    p.votes = (l, h, window) => scores("votes", l, Math.max(windows.indexOf(window), 0) * heads + h);
    p.columns = (l, h) => scores("columns", l, h);
    p.mass = (name, l, h) => row(name, l, h);  // "keys" or "values": one byte per token
    p.probe = (l, q, i) => row("probes", l, q * probes.length + i);  // the root of attention, one byte each
    p.probed = (l, h) => {  // attention of all probes, over the query heads of one KV head
      const sum = new Float64Array(n);
      for (let q = h * group; q < (h + 1) * group; q++)
        probes.forEach((_, i) => {
          const weight = data.weights[(l * heads * group + q) * probes.length + i];
          p.probe(l, q, i).forEach((code, j) => { sum[j] += weight * code * code; });
        });
      return sum;
    };
    return p;
  };
}
