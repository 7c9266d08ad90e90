/** Credentials of a pull: those of the request where they are meant for the registry, else those of the operator's files. */
import { type AuthSources, findInAuthFiles } from "./auth-files.ts";
import type { RegistryAuth } from "./contract.ts";
import type { Reference } from "./reference.ts";

const dockerHosts: readonly string[] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/** A registry's host as its credentials may be filed: `https://index.docker.io/v1/` is docker.io. */
export function registryOfServer(address: string): string {
  const host = address.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
  return dockerHosts.includes(host) ? "docker.io" : host;
}

export type RequestAuth = {
  readonly credentials: RegistryAuth;
  /** As the request says it; "" = the registry of the image */
  readonly server: string;
};

/** Gives each place that is asked its own credentials: the request's are for the registry itself, never for its mirrors. */
export function credentialsOf(
  reference: Reference,
  given: RequestAuth | undefined,
  sources: AuthSources,
  signal: AbortSignal,
): (endpoint: { readonly url: string; readonly isMirror: boolean }) => Promise<RegistryAuth | undefined> {
  const { registry, repository } = reference;
  return async ({ url, isMirror }) => {
    if (isMirror) {
      const { host, pathname } = new URL(url);
      const path = pathname.replace(/^\/+|\/+$/g, "");
      return findInAuthFiles(sources, [host, path, repository].filter(Boolean).join("/"), signal);
    }
    const isMeant =
      given !== undefined && (given.server === "" || registryOfServer(given.server) === registry);
    return isMeant ? given.credentials : findInAuthFiles(sources, `${registry}/${repository}`, signal);
  };
}
