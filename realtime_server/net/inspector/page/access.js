/** Whether this page may connect: the server is asked, since a refused handshake tells nothing. */

/**
 * Ask the server.
 *
 * @param {string} token to connect with; empty for none.
 * @returns {Promise<object>} `state` is
 *   "ok", with `tables`, the `problem` that kept them from being listed, and `hasToken`;
 *   "token", if another token is needed, with the `reason`;
 *   "refused", with the `reason`;
 *   "away", if the server does not answer.
 */
export async function askForAccess(token) {
  const url = new URL("inspector.json", location.href);
  url.search = new URLSearchParams({ origin: location.origin });
  url.hash = "";
  let response;
  let text;
  try {
    // A header, not the address: addresses are logged.
    response = await fetch(url, { headers: token === "" ? {} : { "x-api-key": token } });
    text = await response.text();
  } catch {
    return { state: "away" };
  }
  const answer = parse(text);
  if (response.ok && answer !== null) {
    return { state: "ok", tables: answer.tables, problem: answer.problem, hasToken: answer.has_token };
  }
  const reason = answer?.reason ?? (text.trim() || `HTTP status ${response.status}`);
  return { state: response.status === 401 ? "token" : "refused", reason };
}

/** Say why the server is not ready, empty if it is. */
export async function askForReadiness() {
  try {
    const response = await fetch("ready");
    const text = await response.text();
    return response.status === 503 ? text.trim().replace(/^not ready: /, "") : "";
  } catch {
    return "";
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
