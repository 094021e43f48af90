/* Predict first: the reader orders the methods and guesses a number; then the measurement is laid over it.
   The guess stays on the reader's machine. */
"use strict";

{
  const start = root => {
    const form = root.querySelector("form"), told = root.querySelector("[role=status]");
    const measured = JSON.parse(root.dataset.measured), name = `guess ${root.dataset.name}`;
    const methods = Object.keys(measured).filter(one => one !== "Random");
    const best = [...methods].sort((a, b) => measured[b] - measured[a]);
    const places = [...form.querySelectorAll("select")], slider = form.querySelector("input");

    const row = (label, value, guess) => {
      const track = document.createElement("div");
      const dot = (at, kind) => {
        const made = Object.assign(document.createElement("span"), { className: kind });
        made.style.left = `${100 * Math.min(Math.max(at, 0), 1)}%`;
        track.append(made);
      };
      if (guess !== undefined) dot(guess, "guessed");
      dot(value, "measured");
      const line = document.createElement("p");
      line.append(label, track);
      return line;
    };

    const lay = () => {
      const order = places.map(one => one.value), guess = Number(slider.value);
      const right = order.filter((one, i) => one === best[i]).length;
      told.textContent = `Measured, best first: ${best.join(", ")}; you had ${right} of ${best.length}. `
        + `A random choice scores ${measured.Random.toFixed(3)}; you said ${guess.toFixed(2)}.`;
      const lines = best.map(one => row(`${one} ${measured[one].toFixed(3)}`, measured[one]));
      lines.push(row(`Random ${measured.Random.toFixed(3)}`, measured.Random, guess));
      root.querySelector(".lab-laid").replaceChildren(...lines);
    };

    form.addEventListener("input", () => { form.querySelector("output").textContent = slider.value; });
    form.addEventListener("submit", event => {
      event.preventDefault();
      if (new Set(places.map(one => one.value)).size < places.length) {
        told.textContent = "Name each method once.";
        return;
      }
      try {
        localStorage.setItem(name, JSON.stringify([...places, slider].map(one => one.value)));
      } catch { /* a browser that keeps nothing for files */ }
      lay();
    });
    root.hidden = false;
    let before = null;
    try { before = JSON.parse(localStorage.getItem(name)); } catch { /* the same, or not ours */ }
    if (!Array.isArray(before) || before.length !== places.length + 1) return;
    [...places, slider].forEach((one, i) => { one.value = before[i]; });
    form.querySelector("output").textContent = slider.value;
    lay();
  };

  const all = () => document.querySelectorAll(".lab-guess").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
}
