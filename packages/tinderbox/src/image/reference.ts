/** Image references as users write them, and their normal form: `docker.io/library/alpine:3.20`. */
import { TinderboxError } from "../base/errors.ts";

export type Reference = {
  /** `registry.k8s.io`, `127.0.0.1:5000`, `docker.io` */
  readonly registry: string;
  /** `library/alpine` */
  readonly repository: string;
  readonly tag: string | undefined;
  readonly digest: string | undefined;
};

const component = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const repositoryPattern = new RegExp(`^${component}(?:/${component})*$`);
const registryPattern = /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$/;
const tagPattern = /^[\w][\w.-]{0,127}$/;
const digestPattern = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

function isRegistryHost(first: string): boolean {
  return /[.:]/.test(first) || first === "localhost" || first.startsWith("[");
}

/** Whether an image's name says no registry: `alpine`, `library/alpine:3`. */
export function isShortName(text: string): boolean {
  const [first = "", ...rest] = text.split("/");
  return rest.length === 0 || !isRegistryHost(first);
}

/** Parses a reference, a name without a registry as one of Docker Hub; without tag and digest the tag is `latest`. @throws IMAGE_REFERENCE */
export function parseReference(text: string): Reference {
  const wrong = (why: string): TinderboxError =>
    new TinderboxError("IMAGE_REFERENCE", `image ${JSON.stringify(text)}: ${why}`, {
      hint: "write [REGISTRY/]NAME[:TAG][@sha256:HEX]",
    });
  if (text.length === 0 || text.length > 512) throw wrong("must be 1 to 512 characters long");
  const at = text.indexOf("@");
  const digest = at < 0 ? undefined : text.slice(at + 1);
  if (digest !== undefined && !digestPattern.test(digest))
    throw wrong("the digest must be sha256: and 64 hex digits");
  let name = at < 0 ? text : text.slice(0, at);
  const colon = name.lastIndexOf(":");
  let tag: string | undefined;
  if (colon > name.lastIndexOf("/")) {
    tag = name.slice(colon + 1);
    name = name.slice(0, colon);
    if (!tagPattern.test(tag))
      throw wrong(`the tag ${JSON.stringify(tag)} must be 1 to 128 of [A-Za-z0-9_.-]`);
  }
  const slash = name.indexOf("/");
  const first = slash < 0 ? "" : name.slice(0, slash);
  const isRegistry = isRegistryHost(first);
  // DNS knows no case: what is said of a registry must count however it is written.
  const host = first.toLowerCase();
  const registry = isRegistry ? (host === "index.docker.io" ? "docker.io" : host) : "docker.io";
  if (!registryPattern.test(registry))
    throw wrong(`the registry ${JSON.stringify(registry)} is not a host name`);
  let repository = isRegistry ? name.slice(slash + 1) : name;
  if (registry === "docker.io" && !repository.includes("/")) repository = `library/${repository}`;
  if (!repositoryPattern.test(repository) || repository.length > 255) {
    throw wrong(`the name ${JSON.stringify(repository)} must be lower-case letters, digits and separators`);
  }
  return { registry, repository, tag: tag ?? (digest === undefined ? "latest" : undefined), digest };
}

/** `registry/repository` of a reference. */
export function nameOf(reference: Reference): string {
  return `${reference.registry}/${reference.repository}`;
}
