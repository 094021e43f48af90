/* What each rule keeps: scores of tokens, pooling, chunks, the choice of the highest. Nothing here touches
   the page. Scores are whole numbers, so their sums are exact; of equal scores the lower position wins. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  // A number in 0..2^32-1 for every seed, layer, head and token.
  const drawn = (seed, layer, head, position) => {
    let x = Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(64 * layer + 1 + head, 0x85ebca77)
      ^ Math.imul(position + 1, 0xc2b2ae3d);
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
    return (x ^ (x >>> 16)) >>> 0;
  };

  // Half-way cases go to the even number, as in Python.
  const rounded = x => {
    const low = Math.floor(x);
    return x - low === 0.5 ? low + (low % 2) : Math.round(x);
  };

  Lab.tokens = (budget, n) => Math.max(rounded(n * (budget / 100)), Math.min(n, 4), 1);

  // The chosen window, or the largest that fits into the budget.
  Lab.window = (s, n) => {
    const fits = [4, 8, 16, 32].filter(w => w <= Math.min(s.window, Lab.tokens(s.budget, n)));
    return fits.length ? fits[fits.length - 1] : n;
  };

  const positions = (p, score) => new Float64Array(p.n).map((_, i) => score(i));
  const METHODS = {
    ChunkKV: { uses: ["window", "chunk"], scores: (p, l, h, s) => p.votes(l, h, s.window) },
    SnapKV: { uses: ["window", "kernel"], scores: (p, l, h, s) => p.votes(l, h, s.window) },
    H2O: { uses: ["window"], scores: (p, l, h) => p.columns(l, h) },
    StreamingLLM: { uses: [], scores: p => positions(p, i => i < 4 ? 2 * p.n - i : i) },
    Recent: { uses: [], scores: p => positions(p, i => i) },
    Random: { uses: [], scores: (p, l, h, s) => positions(p, i => drawn(s.seed || 0, l, h, i)) },
    Oracle: { uses: [], scores: (p, l, h) => p.probed(l, h) },
    "Own rule": { uses: ["window", "unit"], scores: (p, l, h, s) => s.rule(p, l, h, s) },
  };
  Lab.METHODS = METHODS;

  // Each score becomes the largest within half a kernel on both sides.
  Lab.pooled = (scores, kernel) => {
    if (kernel === 1) return scores;
    const half = (kernel - 1) / 2, last = scores.length - 1;
    return scores.map((_, i) => {
      let most = -Infinity;
      for (let j = Math.max(0, i - half), end = Math.min(last, i + half); j <= end; j++)
        if (scores[j] > most) most = scores[j];
      return most;
    });
  };

  // The `room` highest as a mask.
  Lab.highest = (scores, room) => {
    const mask = new Uint8Array(scores.length);
    if (room <= 0) return mask;
    const least = Float64Array.from(scores).sort()[scores.length - room];
    let left = room;
    for (const x of scores) if (x > least) left--;
    for (let i = 0; i < mask.length; i++)
      if (scores[i] > least || (scores[i] === least && left-- > 0)) mask[i] = 1;
    return mask;
  };

  // Whole chunks, the best first, until `room` is full; of the last one only its first tokens that fit.
  Lab.chunks = (scores, room, size) => {
    const mask = new Uint8Array(scores.length), sums = new Float64Array(Math.ceil(scores.length / size));
    scores.forEach((x, i) => { sums[Math.floor(i / size)] += x; });
    const order = Array.from(sums.keys()).sort((a, b) => sums[b] - sums[a] || a - b);
    for (const k of order)
      for (let i = k * size; i < (k + 1) * size && i < scores.length && room > 0; i++, room--) mask[i] = 1;
    return mask;
  };

  // One layer's kept tokens: a mask of n bytes per set, one set for each KV head or one for all.
  Lab.keep = (p, layer, s) => {
    const method = METHODS[s.method], tokens = Lab.tokens(s.budget, p.n), window = Lab.window(s, p.n);
    const setting = { ...s, window }, sets = [];
    const heads = Array.from({ length: p.heads }, (_, h) => h);
    for (const group of s.share === "layer" ? [heads] : heads.map(h => [h])) {
      let scores = method.scores(p, layer, group[0], setting);
      if (group.length > 1 && s.method !== "Random") {
        const rest = group.slice(1).map(h => method.scores(p, layer, h, setting));
        scores = scores.map((x, i) => rest.reduce((sum, other) => sum + other[i], x));
      }
      const unit = s.method === "Own rule" ? s.unit : s.method === "ChunkKV" ? "chunks"
        : s.method === "SnapKV" ? "pooled" : "tokens";
      const past = method.uses.includes("window") ? p.n - window : p.n;
      const room = tokens - (p.n - past), asked = scores.subarray(0, past);
      const chosen = unit === "chunks" ? Lab.chunks(asked, room, s.chunk)
        : Lab.highest(unit === "pooled" ? Lab.pooled(asked, s.kernel) : asked, room);
      const mask = new Uint8Array(p.n).fill(1);
      mask.set(chosen);
      sets.push(mask);
    }
    return sets;
  };
}
