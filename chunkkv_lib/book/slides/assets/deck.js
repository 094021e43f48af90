// Moves through the slides, makes long ones fit, and unpacks MathJax where there are equations.
"use strict";
(() => {
  const root = document.documentElement, slides = [...document.querySelectorAll(".slide")];
  const phone = matchMedia("screen and (max-width: 700px) and (orientation: portrait)");
  let now = 0;

  function go(to) {
    now = Math.max(0, Math.min(slides.length - 1, to));
    slides.forEach((slide, i) => {
      slide.classList.toggle("now", i === now);
      slide.toggleAttribute("inert", i !== now);
    });
    document.querySelector(".page").textContent = `${now + 1} / ${slides.length}`;
    history.replaceState(null, "", `#${now + 1}`);
  }

  // Smaller text, step by step, until a slide's content is no larger than its place; a last resort is to scroll.
  function fit(slide) {
    const content = slide.querySelector(".content");
    const over = () => content.scrollHeight > content.clientHeight + 1 || content.scrollWidth > content.clientWidth + 1;
    slide.classList.remove("scrolls");
    slide.style.removeProperty("--fit");
    if (phone.matches) return;
    for (let size = 0.95; over() && size > 0.5; size -= 0.05) slide.style.setProperty("--fit", size);
    slide.classList.toggle("scrolls", over());
  }
  const fitAll = () => slides.forEach(fit);

  const actions = {
    notes() {
      const on = document.body.classList.toggle("with-notes");
      document.querySelector("[data-do=notes]").setAttribute("aria-pressed", on);
    },
    theme() { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; },
  };
  const keys = {
    ArrowRight: () => go(now + 1), PageDown: () => go(now + 1), " ": () => go(now + 1),
    ArrowLeft: () => go(now - 1), PageUp: () => go(now - 1),
    Home: () => go(0), End: () => go(slides.length - 1), n: actions.notes, d: actions.theme,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || (event.key === " " && event.target.matches("button"))) return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (action) { event.preventDefault(); action(); }
  });
  document.querySelectorAll("[data-go]").forEach((b) => b.addEventListener("click", () => go(now + Number(b.dataset.go))));
  document.querySelectorAll("[data-do]").forEach((b) => b.addEventListener("click", () => actions[b.dataset.do]()));

  let start = null; // of a finger's way over the slide
  addEventListener("touchstart", (event) => { start = event.changedTouches[0]; }, { passive: true });
  addEventListener("touchend", (event) => {
    const end = event.changedTouches[0], x = end.clientX - start.clientX, y = end.clientY - start.clientY;
    if (Math.abs(x) > 60 && Math.abs(x) > 2 * Math.abs(y)) go(now + (x < 0 ? 1 : -1));
  }, { passive: true });

  async function mathematics() {
    const packed = document.getElementById("mathjax");
    if (!packed) return;
    const bytes = Uint8Array.from(atob(packed.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    await window.MathJax.startup.promise;
  }

  root.classList.add("live");
  root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  addEventListener("hashchange", () => go(Number(location.hash.slice(1)) - 1 || 0));
  addEventListener("resize", fitAll);
  go(Number(location.hash.slice(1)) - 1 || 0);
  window.ready = Promise.all([mathematics(), document.fonts.ready]).then(fitAll);
})();
