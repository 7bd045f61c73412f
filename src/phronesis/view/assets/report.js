"use strict";
// Adds to a page that is complete without it: values under the pointer, copy buttons, keys.
(() => {
  const charts = document.querySelectorAll("[data-chart]");
  charts.forEach((frame) => {
    const { at, read } = JSON.parse(frame.dataset.chart);
    if (!at.length) return;
    const cursor = document.createElement("div");
    const tip = document.createElement("div");
    cursor.className = "cursor";
    tip.className = "tip";
    tip.setAttribute("role", "status");
    frame.append(cursor, tip);
    let now = at.length - 1;
    const show = (i) => {
      now = Math.max(0, Math.min(at.length - 1, i));
      cursor.style.left = at[now] + "%";
      tip.replaceChildren(...read[now].map((text, k) => {
        const line = document.createElement(k ? "span" : "b");
        line.textContent = text;
        return line;
      }));
      tip.style.left = at[now] + "%";
      tip.classList.toggle("flip", at[now] > 55);
      frame.classList.add("active");
    };
    const hide = () => frame.classList.remove("active");
    const nearest = (percent) => {
      let low = 0, high = at.length - 1;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (at[middle] < percent) low = middle; else high = middle;
      }
      return percent - at[low] <= at[high] - percent ? low : high;
    };
    frame.addEventListener("pointermove", (event) => {
      const box = frame.querySelector("svg").getBoundingClientRect();
      show(nearest(100 * (event.clientX - box.left) / box.width));
    });
    frame.addEventListener("pointerleave", hide);
    frame.addEventListener("focus", () => { if (frame.matches(":focus-visible")) show(now); });
    frame.addEventListener("blur", hide);
    frame.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (move === undefined) return;
      event.preventDefault();
      show(move === -Infinity ? 0 : move === Infinity ? at.length - 1 : now + move);
    });
  });

  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        button.textContent = "Copied";
      } catch {
        const range = document.createRange();
        range.selectNodeContents(button.previousElementSibling);
        const selection = getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  });

  const episodes = [...document.querySelectorAll("article.episode")];
  const current = () => {
    let found = -1;
    episodes.forEach((e, i) => { if (e.getBoundingClientRect().top < innerHeight / 3) found = i; });
    return found;
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, [data-chart]")) return;
    const at = current();
    if (event.key === "n" && episodes[at + 1]) episodes[at + 1].scrollIntoView();
    if (event.key === "p" && episodes[at - 1]) episodes[at - 1].scrollIntoView();
    if (event.key === "t" && episodes[at]) {
      const boxes = [...episodes[at].querySelectorAll("details.token-box")];
      const open = boxes.some((b) => !b.open);
      boxes.forEach((b) => { b.open = open; });
    }
  });

  addEventListener("beforeprint", () => document.querySelectorAll("details.twin").forEach((d) => { d.open = true; }));
})();
