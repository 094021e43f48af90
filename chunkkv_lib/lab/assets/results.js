/* What a setting means for a prompt: kept sets and metrics of every layer, and what the model wrote. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  const REMEMBERED = 60;  // settings per prompt, so that a control which comes back costs nothing

  // The values of those controls that change what a method keeps.
  const parts = s => {
    const { uses } = Lab.METHODS[s.method];
    const asked = name => uses.includes(name) && s[name];
    const own = uses.includes("unit") && [s.formula, s.unit, s.chunk, s.kernel];
    return [s.method, s.budget, s.share, asked("chunk"), asked("window"), asked("kernel"), own, s.seed];
  };

  // [{sets, l1, cosine, evidence}, ...] of every layer.
  Lab.results = (p, s) => {
    const key = JSON.stringify(parts(s)), cache = p.cache || (p.cache = new Map());
    if (!cache.has(key)) {
      if (cache.size > REMEMBERED) cache.clear();
      cache.set(key, Array.from({ length: p.layers }, (_, l) => {
        const sets = Lab.keep(p, l, s);
        return { sets, ...Lab.measure(p, l, sets) };
      }));
    }
    return cache.get(key);
  };

  // What the model wrote from this very cache; undefined where that was not recorded.
  Lab.written = (p, s) => {
    const [method, budget, share, ...rest] = parts(s);
    const same = one => one[0] === method && one[1] === budget && one[2] === share
      && [0, 1, 2].every(i => rest[i] === false || rest[i] === one[3 + i]);
    return p.written.find(same)?.at(-1);
  };
}
