"use strict";

const MEANING = {
  swapping: {
    verb: "Swap",
    does: "The target's picture or video with the source's identity.",
    source: "whose identity",
    target: "whose picture, pose and light",
  },
  reenactment: {
    verb: "Reenact",
    does: "The source's portrait moves as the face in the target does.",
    source: "the portrait",
    target: "the pose and expression",
  },
};
const EVERY = 400; // milliseconds between two looks at a request
const HEADERS = { "X-Uniface": "1" };

const one = (selector, within = document) => within.querySelector(selector);
const form = one("#form");
const chosen = { source: null, target: null }; // a File, or the name of an example
let running = null; // key of the request
let largest = Infinity;

const isVideo = (what) => (what instanceof File ? what.type.startsWith("video/") : /\.mp4$/.test(what));
const task = () => form.elements.task.value;

function say(error) {
  one("#error").hidden = !error;
  one("#error").textContent = error || "";
}

async function ask(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, { ...options, headers: { ...HEADERS, ...options.headers } });
  } catch {
    throw new Error("The program does not answer: look at the terminal that it runs in.");
  }
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(answer.error || `The program answers ${reply.status}.`);
  return answer;
}

function medium(address, moves, options = {}) {
  const shown = document.createElement(moves ? "video" : "img");
  if (moves) Object.assign(shown, { muted: true, loop: true, playsInline: true, preload: "auto", ...options });
  else shown.alt = options.alt || "";
  shown.src = address;
  return shown;
}

function choose(role, what) {
  chosen[role] = what;
  const box = one(`[data-role=${role}]`);
  const shown = one(".shown", box);
  const before = one("img, video", shown);
  if (before && before.src.startsWith("blob:")) URL.revokeObjectURL(before.src);
  shown.replaceChildren();
  if (what) {
    const address = what instanceof File ? URL.createObjectURL(what) : `/page/examples/${what}`;
    shown.append(medium(address, isVideo(what), { autoplay: true, alt: `the chosen ${role}` }));
  }
  one(".hint", box).hidden = Boolean(what);
  for (const button of box.querySelectorAll(".examples button")) {
    button.setAttribute("aria-pressed", String(button.value === what));
  }
  say("");
  refresh();
}

function take(role, file) {
  if (!file) return;
  if (file.size > largest) say(`${file.name} is larger than ${largest >> 20} MB: choose a smaller file.`);
  else if (role === "source" && isVideo(file)) say("The source is a picture: a video can be the target.");
  else choose(role, file);
}

function refresh() {
  const words = MEANING[task()];
  if (!words) return;
  one("#meaning").textContent = words.does;
  one("#start").textContent = words.verb;
  one("#start").disabled = Boolean(running) || !chosen.source || !chosen.target;
  one("#all").hidden = task() !== "swapping";
  for (const role of ["source", "target"]) one(`[data-role=${role}] legend span`).textContent = words[role];
}

async function key(what) {
  if (!(what instanceof File)) return what;
  const sent = await ask(`/files?name=${encodeURIComponent(what.name)}`, { method: "POST", body: what });
  return sent.key;
}

function told(state) {
  const bar = one("#progress progress");
  const counted = state.state === "running" && state.total > 0;
  if (counted) Object.assign(bar, { max: state.total, value: state.done });
  else bar.removeAttribute("value");
  let text = "Working …";
  if (state.state === "waiting") text = state.ahead === 1 ? "One request is before yours …" : `${state.ahead} requests are before yours …`;
  if (counted) text = `${state.done} of about ${state.total} frames`;
  if (counted && state.seconds_left !== null) text += `, ${Math.ceil(state.seconds_left)} s left`;
  one("#progress span").textContent = text;
}

function show(files) {
  const moves = files.result.endsWith(".mp4");
  one("#answer").replaceChildren(medium(files.result, moves, { controls: true, autoplay: true, alt: "the result" }));
  one("#download").href = files.result;
  for (const name of ["fdf", "attention"]) {
    one(`#${name}`).hidden = !files[name];
    if (files[name]) one(`#${name} img`).src = files[name];
  }
  one("#result").hidden = false;
  one("#result").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

async function run() {
  const everyone = task() === "swapping" && one("#all input").checked;
  const wanted = { task: task(), face: everyone ? "all" : "largest" };
  told({ state: "sending" });
  wanted.source = await key(chosen.source);
  wanted.target = await key(chosen.target);
  const made = await ask("/jobs", {
    method: "POST",
    body: JSON.stringify(wanted),
    headers: { "Content-Type": "application/json" },
  });
  running = made.key;
  for (;;) {
    const state = await ask(`/jobs/${running}`);
    if (state.state === "done") return show(state.files);
    if (state.state === "failed") throw new Error(state.error);
    if (state.state === "stopped") return null;
    told(state);
    await new Promise((ready) => setTimeout(ready, EVERY));
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  say("");
  running = "sending";
  refresh();
  one("#result").hidden = true;
  one("#progress").hidden = false;
  try {
    await run();
  } catch (error) {
    say(error.message);
  }
  running = null;
  one("#progress").hidden = true;
  refresh();
});

one("#stop").addEventListener("click", () => {
  if (running && running !== "sending") ask(`/jobs/${running}`, { method: "DELETE" }).catch((error) => say(error.message));
});

form.addEventListener("change", (event) => {
  if (event.target.name === "task") refresh();
});

for (const role of ["source", "target"]) {
  const drop = one(`[data-role=${role}] .drop`);
  one("input", drop).addEventListener("change", (event) => {
    take(role, event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") take(role, event.dataTransfer.files[0]);
    });
  }
}

async function begin() {
  const about = await ask("/about");
  largest = about.largest;
  one("#model").textContent = about.model;
  one("#place").textContent = about.own ? ", on this machine alone" : "";
  for (const input of form.elements.task) input.disabled = !about.tasks.includes(input.value);
  one(`[name=task][value=${about.tasks.includes("swapping") ? "swapping" : about.tasks[0]}]`).checked = true;
  for (const role of ["source", "target"]) {
    const names = about.examples.filter((name) => name.startsWith(role));
    one(`[data-role=${role}] .examples`).append(
      ...names.map((name) => {
        const button = Object.assign(document.createElement("button"), { type: "button", value: name });
        button.setAttribute("aria-label", `example ${name.replace(/\.\w+$/, "")}`);
        button.setAttribute("aria-pressed", "false");
        button.classList.toggle("moves", isVideo(name));
        button.append(medium(`/page/examples/${name}`, isVideo(name), { preload: "metadata" }));
        button.addEventListener("click", () => choose(role, name));
        return button;
      }),
    );
    if (names.length) choose(role, names[0]);
  }
  refresh();
}

begin().catch((error) => say(error.message));
