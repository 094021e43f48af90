/* A formula that a reader types becomes a function of one token's numbers. It is read by the grammar below
   and by nothing else: names, numbers, + - * / ^, brackets, and the functions of FUNCTIONS. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  const { log, exp, sqrt, abs, min, max } = Math, FUNCTIONS = { log, exp, sqrt, abs, min, max };
  const SUMS = { "+": (a, b) => a + b, "-": (a, b) => a - b };
  const PRODUCTS = { "*": (a, b) => a * b, "/": (a, b) => a / b };

  // compile("votes + 2 * keys", ["votes", "keys"]) -> v => number, where v holds one number for each name.
  // Throws an Error whose message is one sentence for the reader.
  Lab.compile = (text, names) => {
    if (text.length > 300) throw new Error(`The formula has ${text.length} characters; 300 are the most.`);
    const words = text.match(/\d+\.?\d*(e[+-]?\d+)?|\.\d+|[a-z_]\w*|\S/gi) || [];
    let at = 0;
    const take = word => words[at] === word && ++at > 0;
    const need = word => {
      const where = words[at] ? `before “${words[at]}”` : "at the end";
      if (!take(word)) throw new Error(`“${word}” is missing ${where}.`);
    };

    const chain = (operators, part) => () => {
      let left = part();
      while (Object.hasOwn(operators, words[at] ?? "")) {
        const apply = operators[words[at++]], a = left, b = part();
        left = v => apply(a(v), b(v));
      }
      return left;
    };
    const value = () => {
      const word = words[at++];
      if (word === undefined) throw new Error("The formula ends too early.");
      if (word === "(") { const inner = sum(); need(")"); return inner; }
      if (/^[\d.]/.test(word) && word !== ".") { const number = Number(word); return () => number; }
      if (Object.hasOwn(FUNCTIONS, word)) {
        need("(");
        const parts = [sum()];
        while (take(",")) parts.push(sum());
        need(")");
        const pair = word === "min" || word === "max", f = FUNCTIONS[word];
        if (parts.length !== 1 + pair) throw new Error(`${word} takes ${pair ? "2 values" : "1 value"}.`);
        const [a, b] = parts;
        return b ? v => f(a(v), b(v)) : v => f(a(v));
      }
      if (names.includes(word)) return v => v[word];
      throw new Error(`“${word}” is not known; use ${names.join(", ")}, numbers, + - * / ^ and
        ${Object.keys(FUNCTIONS).join(", ")}.`.replace(/\s+/g, " "));
    };
    const power = () => {
      const base = value();
      if (!take("^")) return base;
      const exponent = signed();
      return v => base(v) ** exponent(v);
    };
    const signed = () => {
      if (!take("-")) return power();
      const inner = signed();
      return v => -inner(v);
    };
    const product = chain(PRODUCTS, signed);
    const sum = chain(SUMS, product);

    if (!words.length) throw new Error("The formula is empty.");
    const compiled = sum();
    if (at < words.length) throw new Error(`“${words[at]}” is not expected here.`);
    return compiled;
  };

  Lab.NAMES = ["votes", "columns", "keys", "values", "position"];

  // A formula as a rule: scores of one layer and KV head. Votes, columns, keys and values are scaled so that
  // their mean over the prompt is 1; position runs from 0 at the first token to 1 at the last.
  Lab.ownRule = text => {
    const score = Lab.compile(text, Lab.NAMES);
    return (p, l, h, s) => {
      const scaled = x => { const sum = x.reduce((a, b) => a + b, 0); return i => x[i] * p.n / sum; };
      const parts = { votes: scaled(p.votes(l, h, s.window)), columns: scaled(p.columns(l, h)),
        keys: scaled(p.mass("keys", l, h)), values: scaled(p.mass("values", l, h)),
        position: i => i / (p.n - 1) };
      const used = Lab.NAMES.filter(name => text.includes(name)), v = {};
      return Float64Array.from({ length: p.n }, (_, i) => {
        for (const name of used) v[name] = parts[name](i);
        const found = score(v);
        return Number.isNaN(found) ? -Infinity : found;
      });
    };
  };
}
