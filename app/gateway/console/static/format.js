// Texts of times, durations, counts and amounts.

let clockOffset = 0;

// The server's time, in milliseconds.
export const serverNow = () => Date.now() + clockOffset;

export function setServerNow(now) {
  clockOffset = now - Date.now();
}

// A time as a field of the type datetime-local has it, in the visitor's zone, and back; empty for none.
export function localTime(text) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? "" : new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

export const utcTime = (local) => (local ? new Date(local).toISOString() : "");

export function ms(value) {
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 60_000) return `${(value / 1000).toFixed(1)} s`;
  return duration(value / 1000);
}

// A duration in seconds, in its two largest units.
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

export function rate(value) {
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : count(value);
}

export const plural = (number, noun, nouns = `${noun}s`) => `${count(number)} ${number === 1 ? noun : nouns}`;

const formats = {};

const formatOf = (currency) =>
  (formats[currency] ??= new Intl.NumberFormat("en", { style: "currency", currency, currencyDisplay: "code" }));

const digitsOf = (currency) => formatOf(currency).resolvedOptions().maximumFractionDigits;

// Text of an amount in minor units, with its currency.
export const money = ({ value, currency }) =>
  formatOf(currency).format(value / 10 ** digitsOf(currency)).replace(/\u00a0/g, " ");

// An amount that is nothing shows as a dash.
export const moneyOrDash = (amount) => (amount?.value ? money(amount) : "–");

// What a visitor types as an amount, without its currency: "10", "10.5", "1,000.00".
export function parseAmount(text, currency) {
  const digits = digitsOf(currency);
  const plain = text.trim().toUpperCase().replace(new RegExp(`^${currency}\\s*|\\s*${currency}$`), "").replace(/,(?=\d{3}\b)/g, "");
  const found = /^(\d{1,12})(?:\.(\d+))?$/.exec(plain);
  if (!found) return { error: `Write an amount such as ${digits ? `10.${"0".repeat(digits)}` : "10"}.` };
  const fraction = found[2] || "";
  if (fraction.length > digits) return { error: digits ? `${currency} has ${digits} decimals.` : `${currency} has no decimals.` };
  const value = Number(found[1]) * 10 ** digits + Number(fraction.padEnd(digits, "0") || 0);
  return value ? { amount: { value, currency } } : { error: "The amount must be more than nothing." };
}

// An amount as a person types it, without its currency.
export const plainAmount = ({ value, currency }) => (value / 10 ** digitsOf(currency)).toFixed(digitsOf(currency));

const day = (time) => {
  const options = { day: "numeric", month: "short" };
  if (time.getFullYear() !== new Date().getFullYear()) options.year = "numeric";
  return time.toLocaleDateString("en-GB", options);
};

// Date and time in the visitor's time zone.
export function dateTime(at, milliseconds = false) {
  const time = new Date(at);
  const fraction = milliseconds ? `.${String(time.getMilliseconds()).padStart(3, "0")}` : "";
  return `${day(time)} ${time.toLocaleTimeString("en-GB")}${fraction}`;
}

// A time as the value of a datetime-local field, which is in the visitor's time zone; empty if it is no time.
export function localInput(at) {
  const time = new Date(at);
  if (Number.isNaN(time.getTime())) return "";
  const local = new Date(time.getTime() - time.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 19);
}

// The time in a datetime-local field, in UTC; empty if there is none.
export const inputTime = (text) => (text ? new Date(text).toISOString() : "");

// A sentence with its times in the visitor's time zone.
export const withLocalTimes = (sentence) => sentence.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, (at) => dateTime(at));
