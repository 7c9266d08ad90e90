/** Answers to a registry's WWW-Authenticate: Basic, or a token from its token service. */
import { TinderboxError } from "../base/errors.ts";
import type { RegistryAuth } from "./contract.ts";
import {
  beginningOf,
  type HttpOptions,
  PassingFault,
  quote,
  request,
  retryAfterOf,
} from "./registry-http.ts";

const maxAnswerBytes = 1 << 20;

export type Challenge =
  | { readonly scheme: "basic" }
  | { readonly scheme: "bearer"; readonly realm: string; readonly service: string };

/** The challenge of a WWW-Authenticate header; undefined when it is none that we can meet. */
export function parseChallenge(header: string): Challenge | undefined {
  if (/^basic\b/i.test(header)) return { scheme: "basic" };
  if (!/^bearer\b/i.test(header)) return undefined;
  const parameters = new Map<string, string>();
  for (const [, key, value] of header.matchAll(/(\w+)="([^"]*)"/g)) {
    if (key !== undefined && value !== undefined) parameters.set(key.toLowerCase(), value);
  }
  const realm = parameters.get("realm");
  if (realm === undefined || !/^https?:\/\//.test(realm) || !URL.canParse(realm)) return undefined;
  return { scheme: "bearer", realm, service: parameters.get("service") ?? "" };
}

function basic(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}

/** Whether credentials for the registry at `endpoint` may be sent to its token service: not in clear when the registry is not. */
function mayCarry(realm: string, endpoint: string): boolean {
  return realm.startsWith("https://") || endpoint.startsWith("http://");
}

/** The Authorization header that meets `challenge` for pulling `repository` from `endpoint`. @throws REGISTRY_AUTH, REGISTRY */
export async function authorize(
  challenge: Challenge,
  endpoint: string,
  repository: string,
  auth: RegistryAuth | undefined,
  http: HttpOptions,
): Promise<string> {
  if (challenge.scheme === "basic") {
    if (auth?.kind === "basic") return basic(auth.username, auth.password);
    throw new TinderboxError(
      "REGISTRY_AUTH",
      `${endpoint} wants a user name and password, and none was given`,
    );
  }
  if (auth?.kind === "registry-token") return `Bearer ${auth.token}`;
  const { realm, service } = challenge;
  if (auth !== undefined && !mayCarry(realm, endpoint))
    throw new TinderboxError(
      "REGISTRY_AUTH",
      `${endpoint} names the token service ${quote(realm)}, where credentials would go without encryption`,
    );
  const scope = `repository:${repository}:pull`;
  let response: Response;
  if (auth?.kind === "identity-token") {
    const body = new URLSearchParams({
      ...{ grant_type: "refresh_token", service, scope, client_id: "tinderbox" },
      refresh_token: auth.token,
    });
    response = await request(realm, {}, { ...http, method: "POST", body });
  } else {
    const url = new URL(realm);
    if (service) url.searchParams.set("service", service);
    url.searchParams.set("scope", scope);
    const headers =
      auth?.kind === "basic" ? { authorization: basic(auth.username, auth.password) } : undefined;
    response = await request(url.href, headers ?? {}, http);
  }
  const text = (await beginningOf(response, maxAnswerBytes, http)).toString("utf8");
  const { origin } = new URL(realm);
  const message = `the token service ${origin} answered HTTP ${response.status}: ${quote(text)}`;
  if (response.status === 429 || response.status >= 500) {
    const retryAfterMs = retryAfterOf(response);
    throw new PassingFault(message, retryAfterMs === undefined ? {} : { retryAfterMs });
  }
  if (!response.ok) throw new TinderboxError("REGISTRY_AUTH", message);
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch (cause) {
    throw new TinderboxError("REGISTRY_AUTH", `the token service ${origin} did not answer with JSON`, {
      cause,
    });
  }
  if (typeof answer === "object" && answer !== null) {
    for (const key of ["token", "access_token"]) {
      const token: unknown = Reflect.get(answer, key);
      // It becomes a header.
      if (typeof token === "string" && /^[\x21-\x7e]+$/.test(token)) return `Bearer ${token}`;
    }
  }
  throw new TinderboxError("REGISTRY_AUTH", `the token service's answer (${origin}) holds no token`);
}
