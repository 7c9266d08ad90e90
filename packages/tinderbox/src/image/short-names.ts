/** Names without a registry, as containers-registries.conf(5) has them: aliases, then the registries to search. */
import { TinderboxError } from "../base/errors.ts";
import { isShortName, nameOf, parseReference, type Reference } from "./reference.ts";

export const shortNameModes = ["enforcing", "permissive", "disabled"] as const;

export type ShortNames = {
  /** Registries that a name without one may be in, in this order */
  readonly searchRegistries: readonly string[];
  /** `alpine` to `docker.io/library/alpine`, both without tag and digest */
  readonly aliases: ReadonlyMap<string, string>;
  /** enforcing: a name that several registries could have is refused; else they are asked one after the other */
  readonly mode: (typeof shortNameModes)[number];
};

/** What Docker does. */
export const dockerHubOnly: ShortNames = {
  searchRegistries: ["docker.io"],
  aliases: new Map(),
  mode: "enforcing",
};

/** The images that `text` may mean, in the order in which they are looked for; never empty. @throws IMAGE_REFERENCE */
export function resolveNames(
  text: string,
  { searchRegistries, aliases, mode }: ShortNames,
): readonly Reference[] {
  const plain = parseReference(text);
  if (!isShortName(text)) return [plain];
  const name = /^[^@]*?(?=(:[^/]*)?(@|$))/.exec(text)?.[0] ?? text;
  const alias = aliases.get(name);
  if (alias !== undefined) return [parseReference(`${alias}${text.slice(name.length)}`)];
  const found = searchRegistries.map((registry) => parseReference(`${registry}/${text}`));
  if (found.length === 0)
    throw new TinderboxError(
      "IMAGE_REFERENCE",
      `image ${JSON.stringify(text)}: a name without a registry, and none is searched here`,
      { hint: "write REGISTRY/NAME, or set images.unqualified_search_registries or images.aliases" },
    );
  if (found.length > 1 && mode === "enforcing")
    throw new TinderboxError(
      "IMAGE_REFERENCE",
      `image ${JSON.stringify(text)}: this could be ${found.map(nameOf).join(" or ")}`,
      { hint: "write the one that is meant, or give it an alias in images.aliases" },
    );
  return found;
}
