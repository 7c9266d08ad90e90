/** What an operator says of images: where they come from, with what credentials, and which may be used. */
import type { AuthSources } from "./auth-files.ts";
import { defaultPatience } from "./registry-client.ts";
import { dockerHubOnly, type ShortNames } from "./short-names.ts";
import { acceptAnything, type SignaturePolicy } from "./signature-policy.ts";

export type ImageSettings = {
  /** Registry host (`registry.k8s.io`) to its mirrors' URLs */
  readonly registries: ReadonlyMap<string, { readonly mirrors: readonly string[] }>;
  readonly shortNames: ShortNames;
  readonly auth: AuthSources;
  readonly policy: SignaturePolicy;
  /** Names that nobody's garbage collection takes: whole, `begin*`, or `*part*` */
  readonly pinned: readonly string[];
  /** A registry that sends nothing for this long is given up, `ms` */
  readonly stallMs: number;
};

export const defaultImageSettings: ImageSettings = {
  registries: new Map(),
  shortNames: dockerHubOnly,
  auth: { files: [], helpersDir: "" },
  policy: acceptAnything,
  pinned: [],
  stallMs: defaultPatience.stallMs,
};

/** Whether one of an image's names is pinned. */
export function isPinned(names: readonly string[], pinned: readonly string[]): boolean {
  return pinned.some((pattern) => {
    const text = pattern.replaceAll("*", "");
    return names.some((name) => {
      if (!pattern.endsWith("*")) return name === text;
      return pattern.startsWith("*") ? name.includes(text) : name.startsWith(text);
    });
  });
}
