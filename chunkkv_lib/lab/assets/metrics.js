/* Both metrics of the book, and what is left of the evidence, from kept tokens and the prompt's codes. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  // Whole sums that every setting needs again, once per prompt and layer.
  const totals = (p, l) => {
    const cache = p.totals || (p.totals = []);
    if (cache[l]) return cache[l];
    const heads = Array.from({ length: p.heads }, (_, h) => h);
    const all = name => heads.map(h => p.mass(name, l, h).reduce((a, b) => a + b, 0));
    const probes = [];
    for (let q = 0; q < p.heads * p.group; q++)
      for (let i = 0; i < p.probes.length; i++) probes.push(p.probe(l, q, i).reduce((a, c) => a + c ** 4, 0));
    return cache[l] = { keys: all("keys"), values: all("values"), probes };
  };

  // One layer's {l1, cosine, evidence}: L1 mass that is lost (mean of keys and values, then of sets), cosine
  // of the probes' attention with and without eviction (mean over heads, probes), evidence kept.
  Lab.measure = (p, l, sets) => {
    const whole = totals(p, l), count = p.probes.length;
    const places = sets.map(mask => {
      const found = [];
      mask.forEach((kept, i) => { if (kept) found.push(i); });
      return found;
    });
    let l1 = 0, cosine = 0, evidence = 0;
    sets.forEach((mask, set) => {
      const heads = sets.length > 1 ? [set] : Array.from({ length: p.heads }, (_, h) => h);
      for (const name of ["keys", "values"]) {
        let kept = 0, all = 0;
        for (const h of heads) {
          const mass = p.mass(name, l, h);
          for (const i of places[set]) kept += mass[i];
          all += whole[name][h];
        }
        l1 += (1 - kept / all) / 2 / sets.length;
      }
      for (const h of heads)
        for (let q = h * p.group; q < (h + 1) * p.group; q++)
          for (let i = 0; i < count; i++) {
            const codes = p.probe(l, q, i);
            let kept = 0;
            for (const j of places[set]) { const c = codes[j] * codes[j]; kept += c * c; }
            cosine += Math.sqrt(kept / whole.probes[q * count + i]) / (p.heads * p.group * count);
          }
      for (const i of p.marked) evidence += mask[i] / p.marked.length / sets.length;
    });
    return { l1, cosine, evidence };
  };
}
