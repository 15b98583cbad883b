"use strict";
// Cards may come later, too: on the page of `strsr serve`.
const prepareCards = (root) => {
  for (const stage of root.querySelectorAll(".stage")) {
    const range = stage.querySelector("input");
    let held = false;
    const move = (share) => {
      const x = Math.max(0, Math.min(100, share));
      stage.style.setProperty("--x", x + "%");
      range.value = String(Math.round(x));
    };
    const follow = (event) => {
      const box = stage.getBoundingClientRect();
      move((100 * (event.clientX - box.left)) / box.width);
    };
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      held = true;
      stage.setPointerCapture(event.pointerId);
      // A finger may be about to scroll the page.
      if (event.pointerType !== "touch") follow(event);
    });
    stage.addEventListener("pointermove", (event) => { if (held) follow(event); });
    stage.addEventListener("pointerup", (event) => { if (held) follow(event); held = false; });
    stage.addEventListener("pointercancel", () => { held = false; });
    stage.addEventListener("dragstart", (event) => event.preventDefault());
    range.addEventListener("input", () => move(Number(range.value)));
  }
  // The same bytes are shown a second time, at their own size.
  for (const own of root.querySelectorAll("img.own")) {
    own.src = own.closest(".card").querySelector(".before .input").src;
  }
};
prepareCards(document);
for (const choice of document.querySelectorAll("input[name=before]")) {
  choice.addEventListener("change", () => { document.body.dataset.before = choice.value; });
  if (choice.checked) document.body.dataset.before = choice.value;
}
const search = document.querySelector("#search");
if (search) {
  const rows = [...document.querySelectorAll("#all tbody tr")];
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
