"use strict";

const formToken = document.querySelector("meta[name=form-token]").content;

/** A POST that the board accepts. */
function post(path, body, signal) {
  return fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Form-Token": formToken },
    body: JSON.stringify(body),
    signal,
  });
}

// Selects that show something else at once. What was chosen of the old thing is not asked for.
for (const select of document.querySelectorAll("select[data-submit]")) {
  select.addEventListener("change", () => {
    const cleared = select.form.elements[select.dataset.clears];
    if (cleared) cleared.disabled = true;
    select.form.submit();
  });
}

// A run that goes on: when its files have grown, the curves are fetched again.
const live = document.getElementById("live");
if (live) {
  let drawn = null;
  new EventSource(live.dataset.events).addEventListener("message", async (event) => {
    if (drawn !== null && drawn !== event.data) {
      const answer = await fetch(live.dataset.fragment);
      if (answer.ok) live.innerHTML = await answer.text();
    }
    drawn = event.data;
  });
}

// The output of a process, as it comes.
const log = document.getElementById("log");
if (log) {
  const source = new EventSource(log.dataset.events);
  source.addEventListener("message", (event) => {
    const news = JSON.parse(event.data);
    if (news.text) {
      const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
      log.append(news.text);
      if (atEnd) log.scrollTop = log.scrollHeight;
    }
    if ("status" in news) {
      source.close();
      if (log.dataset.live === "yes") location.reload();
    }
  });
}

for (const button of document.querySelectorAll("button[data-post]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    const answer = await post(button.dataset.post, {});
    const told = await answer.json();
    if (told.location) location.assign(told.location);
    else document.getElementById("told").textContent = told.told;
  });
}
