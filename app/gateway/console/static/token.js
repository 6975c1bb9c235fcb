// The bearer token of this tab, and the user that it names.

const TOKEN_KEY = "orderflow-token";

let token = sessionStorage.getItem(TOKEN_KEY) || "";

export const currentToken = () => token;

export const hasToken = () => Boolean(token);

export function setToken(text) {
  token = text.trim().replace(/^bearer\s+/i, "");
  if (token) sessionStorage.setItem(TOKEN_KEY, token);
  else sessionStorage.removeItem(TOKEN_KEY);
}

// The user that the token names, for display only: the server decides. Null without a token.
export function currentUser() {
  if (!token) return null;
  try {
    const text = atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (char) => char.charCodeAt(0))));
    const scopes = claims.scope ?? claims.scp ?? [];
    const list = typeof scopes === "string" ? scopes.split(" ") : scopes;
    const admin = list.includes("orders:admin");
    return { userId: claims.sub || "", admin, webhooks: admin || list.includes("webhooks:manage") };
  } catch {
    return { userId: "", admin: false, webhooks: false };
  }
}

// Whether the visitor may see the orders of all users, as far as the token says; without one the server may need none.
export const seesAll = () => currentUser()?.admin ?? true;

// Whether the visitor may have endpoints of webhooks, as far as the token says.
export const managesWebhooks = () => currentUser()?.webhooks ?? true;
