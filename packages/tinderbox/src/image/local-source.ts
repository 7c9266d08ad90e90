/** Images on disk as people name them: skopeo's transports (containers-transports(5)) for what Tinderbox reads. */
import { basename } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { parseReference, type Reference } from "./reference.ts";

export const localTransports = ["oci", "oci-archive", "docker-archive"] as const;
export type LocalTransport = (typeof localTransports)[number];

export type LocalSource = {
  readonly transport: LocalTransport;
  readonly path: string;
  /** Which image of several; "" = the only one */
  readonly reference: string;
};

/** `TRANSPORT:PATH[:REFERENCE]`, or undefined when the text begins with no transport. @throws IMAGE_REFERENCE */
export function parseLocalSource(text: string): LocalSource | undefined {
  const transport = localTransports.find((one) => text.startsWith(`${one}:`));
  if (transport === undefined) return undefined;
  const rest = text.slice(transport.length + 1);
  const colon = rest.indexOf(":");
  const path = colon < 0 ? rest : rest.slice(0, colon);
  const reference = colon < 0 ? "" : rest.slice(colon + 1);
  if (path === "" || reference.length > 512)
    throw new TinderboxError(
      "IMAGE_REFERENCE",
      `image ${JSON.stringify(text)}: a path must follow ${transport}:`,
      {
        hint: `write ${transport}:PATH[:${transport === "docker-archive" ? "NAME:TAG" : "TAG"}]; for an image ${JSON.stringify(transport)} of Docker Hub docker.io/library/${transport}`,
      },
    );
  return { transport, path, reference };
}

export function formatLocalSource({ transport, path, reference }: LocalSource): string {
  return `${transport}:${path}${reference === "" ? "" : `:${reference}`}`;
}

/**
 * The name of an image whose source calls it `given` (a tag, or a whole name): a whole name stays, a tag belongs to
 * `localhost/` and the name of the directory or archive.
 */
export function localName(path: string, given: string): Reference {
  if (/[/:]/.test(given)) return parseReference(given);
  const file = basename(path).replace(/(\.(tar|gz|tgz|zst|oci|docker))+$/i, "");
  const repository = file
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 128);
  const tag = /^[\w][\w.-]{0,127}$/.test(given) ? given : "latest";
  return { registry: "localhost", repository: repository || "image", tag, digest: undefined };
}
