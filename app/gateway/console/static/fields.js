// Errors of a form, each next to its field.

import { el } from "./elements.js";
import { withLocalTimes } from "./format.js";

let made = 0;

// Removes all errors of a form.
export function clearErrors(form) {
  for (const note of form.querySelectorAll(".field-error")) note.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
}

// Shows an error below a field, or below a group of checkboxes.
export function showError(field, text) {
  const note = el("span", { class: "field-error", id: `error-${(made += 1)}` }, text);
  (field.closest(".field") || field.parentElement).after(note);
  const input = field instanceof HTMLFieldSetElement ? field.querySelector("input") : field;
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", note.id);
}

// Shows each error of a problem next to its field, which has the name of the member, and focuses the first.
// Returns the text of what belongs to no field, empty if there is none.
export function showProblem(form, problem) {
  clearErrors(form);
  const rest = [];
  const errors = errorsOf(problem);
  for (const { pointer, detail } of errors) {
    const field = form.elements[pointer.split("/")[1]];
    if (field instanceof HTMLElement) showError(field, sentence(detail));
    else rest.push(`${pointer.slice(1)}: ${detail}`);
  }
  form.querySelector("[aria-invalid]")?.focus();
  if (!errors.length) rest.push(sentence(problem.message));
  return rest.join(" ");
}

// A problem names the members that it is about, or one member or parameter.
function errorsOf({ errors, message, body }) {
  const name = body?.member || body?.parameter;
  return errors?.length || !name ? errors || [] : [{ pointer: `/${name}`, detail: message }];
}

const sentence = (text) => {
  const whole = withLocalTimes(text.charAt(0).toUpperCase() + text.slice(1));
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
};
