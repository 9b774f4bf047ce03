"use strict";

const form = document.getElementById("form");
const fields = document.getElementById("fields");
const told = document.getElementById("told");

/** What the fields hold, empty ones left out. */
function texts() {
  const filled = [...new FormData(form)].filter(([, text]) => text.trim());
  return Object.fromEntries(filled);
}

form.addEventListener("change", async (event) => {
  if (!("chooses" in event.target.dataset)) return;
  const answer = await post("/train/fields", texts());
  if (answer.ok) fields.innerHTML = await answer.text();
  else told.textContent = await answer.text();
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  form.elements.check.disabled = true;
  told.textContent = "";
  const answer = await post("/train/check", texts());
  form.elements.check.disabled = false;
  if (answer.status === 422) {
    fields.innerHTML = await answer.text();
    scrollTo(0, 0);
    return;
  }
  const kind = answer.headers.get("content-type");
  const said = kind.startsWith("application/json") ? await answer.json() : { told: await answer.text() };
  if (said.location) location.assign(said.location);
  else told.textContent = said.told;
});
