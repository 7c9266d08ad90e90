/** The `images` table of the configuration file: names, credentials, signatures, pins. */
import * as v from "valibot";
import { shortNameModes } from "../image/short-names.ts";
import { signedIdentities } from "../image/signature-policy.ts";
import { absolute, count, table } from "./config-values.ts";

const hostText = "a registry's host, maybe with a port";
const registryHost = v.pipe(
  v.string(hostText),
  v.regex(/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?$/, hostText),
);
const component = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const shortText = "an image's name without registry, tag and digest";
const fullText = "REGISTRY/NAME, without tag and digest";
const scopeText = "REGISTRY or REGISTRY/PATH (docker.io/library), without tag and digest";
const host = "(?:localhost|[a-z0-9-]+(?:\\.[a-z0-9-]+)+|[a-z0-9.-]+(?=:\\d))(?::\\d{1,5})?";
const shortName = v.pipe(v.string(), v.regex(new RegExp(`^${component}(?:/${component})*$`), shortText));
const fullName = v.pipe(v.string(fullText), v.regex(new RegExp(`^${host}(?:/${component})+$`), fullText));
const scope = v.pipe(v.string(), v.regex(new RegExp(`^${host}(?:/${component})*$`), scopeText));
const pinText = "an image's name: whole, begin*, or *part*";
const pin = v.pipe(v.string(pinText), v.regex(/^([^*\s]+\*?|\*[^*\s]+\*)$/, pinText));

const keyless = v.optional(
  v.never("keyless signing (Fulcio, Rekor, a PKI) is not supported: give the signers' public keys in keys"),
);
const typeText =
  '"insecureAcceptAnything", "reject" or "sigstoreSigned" (GPG\'s signedBy and keyless signing are not supported)';
const keysText = "a list of at least one public key's absolute path";
const identityText = signedIdentities.join(" or ");

const rule = v.variant(
  "type",
  [
    table({ type: v.literal("insecureAcceptAnything") }),
    table({ type: v.literal("reject") }),
    table({
      type: v.literal("sigstoreSigned"),
      keys: v.pipe(v.array(absolute, keysText), v.minLength(1, keysText), v.maxLength(64, "at most 64 keys")),
      signed_identity: v.optional(v.picklist(signedIdentities, identityText), "matchRepository"),
      fulcio: keyless,
      pki: keyless,
      rekor_keys: keyless,
    }),
  ],
  typeText,
);
export type FileRule = v.InferOutput<typeof rule>;

/** Every key may be left out. */
export const imagesTable = table({
  unqualified_search_registries: v.optional(
    v.pipe(v.array(registryHost, "a list of registries' hosts"), v.maxLength(16, "at most 16 registries")),
  ),
  short_name_mode: v.optional(v.picklist(shortNameModes, shortNameModes.join(", "))),
  aliases: v.optional(v.record(shortName, fullName, "a table of short names")),
  auth_files: v.optional(v.array(absolute, "a list of absolute paths")),
  credential_helpers_dir: v.optional(
    v.union([v.literal(""), absolute], 'an absolute path of a directory, or "" for no helpers'),
  ),
  pinned: v.optional(v.array(pin, "a list of images' names")),
  progress_timeout_seconds: v.optional(count(1, 3600)),
  default_policy: v.optional(
    v.picklist(["insecureAcceptAnything", "reject"], '"insecureAcceptAnything" or "reject"'),
  ),
  policy: v.optional(v.record(scope, rule, "a table of registries and repositories")),
});
export type FileImages = v.InferOutput<typeof imagesTable>;
