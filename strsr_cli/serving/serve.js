const $ = (selector) => document.querySelector(selector);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const most = Number(document.body.dataset.mostBytes);
const unsent = [];
let sending = false;

// One picture as this page shows it, from its file to its card.
class Item {
  constructor(file) {
    this.file = file;
    this.scale = $("input[name=scale]:checked").value;
    this.format = $("input[name=format]:checked").value;
    this.element = $("#item").content.firstElementChild.cloneNode(true);
    this.element.querySelector("h3").textContent = file.name;
    this.element.querySelector("button").addEventListener("click", () => this.remove());
    this.say("Waiting to be sent");
    $("#results").hidden = false;
    $("#list").prepend(this.element);
  }
  say(words, share = 0) {
    this.element.querySelector(".state").textContent = words;
    this.element.querySelector("progress").value = share;
  }
  // By the pace since the first tile was seen; nothing before a second one is done.
  left(done, tiles) {
    const now = performance.now() / 1000;
    this.first = this.first || { done, now };
    if (done === this.first.done) return "";
    const seconds = ((now - this.first.now) / (done - this.first.done)) * (tiles - done);
    return seconds < 90 ? `, ${Math.ceil(seconds)} s left` : `, ${Math.round(seconds / 60)} min left`;
  }
  fail(words) {
    this.over = true;
    this.element.classList.add("failed");
    // Its name stands above.
    this.say(words.startsWith(this.file.name + ": ") ? words.slice(this.file.name.length + 2) : words);
    this.element.querySelector("button").textContent = "Remove";
  }
  remove() {
    this.over = true;
    if (this.request) this.request.abort();
    if (this.id) fetch("/tasks/" + this.id, { method: "DELETE" }).catch(() => {});
    this.element.remove();
    $("#results").hidden = $("#list").childElementCount === 0;
  }
  // Resolves once the server has taken the picture, or has refused it.
  send() {
    if (this.over) return Promise.resolve();
    if (this.file.size > most) {
      this.fail(`This picture has more than ${document.body.dataset.mostMegabytes} MB.`);
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const form = new FormData();
      form.append("scale", this.scale);
      form.append("format", this.format);
      form.append("image", this.file);
      const request = (this.request = new XMLHttpRequest());
      request.open("POST", "/tasks");
      request.upload.onprogress = (event) => this.say("Sending", event.loaded / event.total);
      request.onloadend = async () => {
        this.request = null;
        if (this.over) resolve();
        else if (request.status === 202) {
          this.id = JSON.parse(request.responseText).id;
          this.follow();
          resolve();
        } else if (request.status === 503) {
          this.say("Waiting for others");
          await wait(2000);
          resolve(this.send());
        } else {
          this.fail(sentence(request.responseText) || "The server cannot be reached; is strsr serve still running?");
          resolve();
        }
      };
      request.send(form);
    });
  }
  async follow() {
    let misses = 0;
    while (!this.over) {
      let state;
      try {
        const answer = await fetch("/tasks/" + this.id);
        if (!answer.ok) return this.fail(sentence(await answer.text()));
        state = await answer.json();
        misses = 0;
      } catch {
        if (++misses === 5) return this.fail("The server cannot be reached; is strsr serve still running?");
        await wait(500);
        continue;
      }
      if (this.over) return;
      if (state.state === "done") return this.finish(state);
      if (state.state === "failed") return this.fail(state.reason);
      if (state.state === "waiting") this.say(state.before === 1 ? "Waits; 1 picture comes before" : `Waits; ${state.before} pictures come before`);
      else if (!state.tilesDone) this.say("Begins");
      else if (state.tilesDone === state.tiles) this.say("Writes");
      else this.say(`Tile ${state.tilesDone} of ${state.tiles}${this.left(state.tilesDone, state.tiles)}`, state.tilesDone / state.tiles);
      await wait(300);
    }
  }
  finish(state) {
    const link = this.element.querySelector("a");
    link.href = `/tasks/${this.id}/output`;
    link.textContent = `Download ${state.file}, ${state.bytes}`;
    link.hidden = false;
    this.element.querySelector("button").textContent = "Remove";
    if (!state.card) {
      this.say(`Done; it cannot be compared here. ${state.remark}`, 1);
      return;
    }
    const result = this.element.querySelector(".result");
    // Made by the server, which escapes all names; scripts in it would not run.
    result.innerHTML = state.card;
    prepareCards(result);
    this.element.classList.add("done");
  }
}

const sentence = (text) => text.trim().replace(/^strsr: /, "");

const take = async (files) => {
  // The newest lot stands above, in the order in which it was chosen.
  unsent.push(...[...files].reverse().map((file) => new Item(file)).reverse());
  if (sending) return;
  sending = true;
  while (unsent.length) await unsent.shift().send();
  sending = false;
};

$("#files").addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
$("#send").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["dragover", "dragenter"]) document.addEventListener(name, (event) => { event.preventDefault(); $("#drop").classList.add("over"); });
for (const name of ["dragleave", "drop"]) document.addEventListener(name, (event) => { event.preventDefault(); $("#drop").classList.remove("over"); });
document.addEventListener("drop", (event) => take(event.dataTransfer.files));
document.addEventListener("paste", (event) => take(event.clipboardData.files));
