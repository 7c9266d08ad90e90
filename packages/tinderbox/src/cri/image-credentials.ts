/** CRI's AuthConfig as credentials for a registry; they are dropped when they are meant for another one. */
import type { RegistryAuth } from "../image/contract.ts";
import type { AuthConfig } from "../rpc/gen/runtime/v1/api_pb.ts";
import { invalid } from "./field-checks.ts";

const dockerHosts: readonly string[] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/** The registry host that an image name speaks of. */
function hostOfImage(name: string): string {
  const [first = "", ...rest] = name.split("/");
  return rest.length > 0 && (/[.:]/.test(first) || first === "localhost") ? first : "docker.io";
}

function hostOfServer(address: string): string {
  return address.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
}

function isMeantFor(auth: AuthConfig, image: string): boolean {
  const server = hostOfServer(auth.serverAddress);
  const registry = hostOfImage(image);
  return (
    server === "" || server === registry || (dockerHosts.includes(server) && dockerHosts.includes(registry))
  );
}

/** The credentials for pulling `image`; undefined: none. Values never appear in errors. */
export function credentialsFor(auth: AuthConfig | undefined, image: string): RegistryAuth | undefined {
  if (auth === undefined || !isMeantFor(auth, image)) return undefined;
  if (auth.registryToken !== "") return { kind: "registry-token", token: auth.registryToken };
  if (auth.identityToken !== "") return { kind: "identity-token", token: auth.identityToken };
  if (auth.auth !== "") {
    const text = Buffer.from(auth.auth, "base64").toString("utf8").replace(/\0+$/, "");
    const colon = text.indexOf(":");
    if (colon < 1) throw invalid("auth.auth", "(hidden)", "base64 of user:password");
    return { kind: "basic", username: text.slice(0, colon), password: text.slice(colon + 1) };
  }
  if (auth.username === "" && auth.password === "") return undefined;
  return { kind: "basic", username: auth.username, password: auth.password };
}
