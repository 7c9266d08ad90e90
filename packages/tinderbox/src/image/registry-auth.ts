/** Answers to a registry's WWW-Authenticate: Basic, or a token from its token service. */
import { TinderboxError } from "../base/errors.ts";
import type { RegistryAuth } from "./contract.ts";

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
  if (realm === undefined || !/^https?:\/\//.test(realm)) return undefined;
  return { scheme: "bearer", realm, service: parameters.get("service") ?? "" };
}

function basic(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}

/** The Authorization header that meets `challenge` for pulling `repository`. @throws REGISTRY_AUTH */
export async function authorize(
  challenge: Challenge,
  repository: string,
  auth: RegistryAuth | undefined,
  signal: AbortSignal,
): Promise<string> {
  if (challenge.scheme === "basic") {
    if (auth?.kind === "basic") return basic(auth.username, auth.password);
    throw new TinderboxError(
      "REGISTRY_AUTH",
      "the registry wants a user name and password, and none was given",
    );
  }
  if (auth?.kind === "registry-token") return `Bearer ${auth.token}`;
  const scope = `repository:${repository}:pull`;
  const limit = AbortSignal.any([signal, AbortSignal.timeout(30_000)]);
  let response: Response;
  if (auth?.kind === "identity-token") {
    const body = new URLSearchParams({
      grant_type: "refresh_token",
      service: challenge.service,
      scope,
      client_id: "tinderbox",
      refresh_token: auth.token,
    });
    response = await fetch(challenge.realm, { method: "POST", body, signal: limit });
  } else {
    const url = new URL(challenge.realm);
    if (challenge.service) url.searchParams.set("service", challenge.service);
    url.searchParams.set("scope", scope);
    const headers = auth?.kind === "basic" ? { authorization: basic(auth.username, auth.password) } : {};
    response = await fetch(url, { headers, signal: limit });
  }
  const text = (await response.text()).slice(0, 1 << 20);
  if (!response.ok)
    throw new TinderboxError("REGISTRY_AUTH", `the token service answered HTTP ${response.status}`);
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch (cause) {
    throw new TinderboxError("REGISTRY_AUTH", "the token service did not answer with JSON", { cause });
  }
  if (typeof answer === "object" && answer !== null) {
    for (const key of ["token", "access_token"]) {
      const token: unknown = Reflect.get(answer, key);
      if (typeof token === "string" && token !== "") return `Bearer ${token}`;
    }
  }
  throw new TinderboxError("REGISTRY_AUTH", "the token service's answer holds no token");
}
