"use strict";
// Shows the stages of an answer as they come. Without this script the form
// loads the page anew, answered. All HTML is made, and escaped, by the server.

const form = document.getElementById("ask");
const box = document.getElementById("question");
const results = document.getElementById("results");
let asked = new AbortController();

function failed(message) {
  const line = document.createElement("p");
  line.className = "error";
  line.setAttribute("role", "alert");
  line.textContent = message;
  return line;
}

async function lines(response, show) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    parts.forEach((part) => show(JSON.parse(part)));
  }
}

async function fill(section, question, system, signal) {
  try {
    const response = await fetch("/results", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ q: question, system }),
      signal,
    });
    if (!response.ok) {
      section.replaceChildren(failed((await response.json()).error));
      return;
    }
    await lines(response, (line) => {
      section.innerHTML = line.html;
    });
  } catch (error) {
    if (error.name !== "AbortError") {
      section.replaceChildren(failed("The server does not answer."));
    }
  } finally {
    if (!signal.aborted) section.removeAttribute("aria-busy");
  }
}

function ask(question) {
  asked.abort();
  asked = new AbortController();
  document.title = `${question} – odqa_jax`;
  const sections = [];
  for (let i = 1; i <= Number(results.dataset.systems); i++) {
    const section = document.createElement("section");
    section.className = "result";
    section.setAttribute("aria-busy", "true");
    const wait = document.createElement("p");
    wait.className = "stage";
    wait.textContent = "Searching…";
    section.append(wait);
    sections.push(section);
    fill(section, question, i, asked.signal);
  }
  results.replaceChildren(...sections);
}

function go(question) {
  history.pushState({}, "", `/?q=${encodeURIComponent(question)}`);
  box.value = question;
  ask(question);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = box.value.trim();
  if (!question) return;
  box.blur();
  go(question);
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (link.closest(".examples")) {
    event.preventDefault();
    go(new URL(link.href).searchParams.get("q"));
  } else if (link.classList.contains("mark")) {
    event.preventDefault();
    jump(document.getElementById(link.hash.slice(1)));
  }
});

window.addEventListener("popstate", () => {
  const question = new URL(location.href).searchParams.get("q");
  if (question) {
    box.value = question;
    ask(question);
  } else {
    location.reload();
  }
});

function jump(passage) {
  if (!passage) return;
  const folded = passage.closest("details");
  if (folded) folded.open = true;
  passage.focus({ preventScroll: true });
  passage.scrollIntoView({ block: "center" });
}

function step(by) {
  const all = [...document.querySelectorAll(".passage")].filter(
    (passage) => passage.checkVisibility(),
  );
  const now = all.indexOf(document.activeElement.closest(".passage"));
  jump(all[Math.max(0, Math.min(all.length - 1, now < 0 ? 0 : now + by))]);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    document.activeElement.blur();
  } else if (document.activeElement === box) {
    return;
  } else if (event.key === "/") {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "j" || event.key === "k") {
    step(event.key === "j" ? 1 : -1);
  } else if (/^[1-9]$/.test(event.key)) {
    jump(document.getElementById(`s1-${event.key}`));
  }
});
