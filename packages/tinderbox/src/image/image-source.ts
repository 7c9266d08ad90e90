/** What is to be brought, from a registry or from files: where it is, how it is called here, and whether it may be. */
import { TinderboxError } from "../base/errors.ts";
import { unpackArchive } from "./archive-files.ts";
import { fetchBundles } from "./bundle-fetch.ts";
import type { PullOptions } from "./contract.ts";
import { credentialsOf } from "./credentials.ts";
import { findInDockerArchive } from "./docker-archive.ts";
import type { HeldSignature } from "./held-signature.ts";
import type { ImageOrigin } from "./image-origin.ts";
import type { ImageSettings } from "./image-settings.ts";
import { formatLocalSource, type LocalSource, localName } from "./local-source.ts";
import { directoryFiles, findInLayout, layoutOrigin } from "./oci-layout.ts";
import { nameOf, parseReference, type Reference } from "./reference.ts";
import { defaultPatience, type Patience, RegistryClient } from "./registry-client.ts";
import { fetchSignatures } from "./signature-fetch.ts";
import {
  acceptsUnnamed,
  checkPolicy,
  isAccepted,
  needsSignature,
  type SignaturePolicy,
} from "./signature-policy.ts";

/** Both by the digest of what was asked for. */
export type Naming = {
  readonly namesOf: (digest: string) => readonly string[];
  /** The signatures by which the policy accepts it, `manifests` being the sha256 of index and manifest. @throws SIGNATURE */
  readonly signaturesOf: (manifests: readonly string[], digest: string) => Promise<readonly HeldSignature[]>;
};

export type ImageSource = {
  readonly origin: ImageOrigin;
  /** Tag or digest there */
  readonly which: string;
  readonly naming: Naming;
};

type Running = PullOptions & { readonly signal: AbortSignal };

/** The client for an image's registry and its mirrors. @throws SIGNATURE for what the policy rejects whatever it is */
export function registryFor(
  reference: Reference,
  { signal, auth, authServer = "" }: Running,
  settings: ImageSettings,
  patience: Patience | undefined,
): RegistryClient {
  const { registries, policy, auth: sources, stallMs } = settings;
  // It is not even asked for.
  if (!needsSignature(policy, reference)) checkPolicy(policy, reference, []);
  const given = auth && { credentials: auth, server: authServer };
  return new RegistryClient(reference, {
    mirrors: registries.get(reference.registry)?.mirrors ?? [],
    credentials: credentialsOf(reference, given, sources, signal),
    signal,
    patience: patience ?? { ...defaultPatience, stallMs },
  });
}

/** An image of a registry; `work` is the pull's own directory. */
export function registrySource(
  client: RegistryClient,
  reference: Reference,
  policy: SignaturePolicy,
  work: string,
  signal: AbortSignal,
): ImageSource {
  return {
    origin: client,
    which: reference.digest ?? reference.tag ?? "latest",
    naming: {
      namesOf: (digest) => [
        ...(reference.tag === undefined ? [] : [`${nameOf(reference)}:${reference.tag}`]),
        `${nameOf(reference)}@${digest}`,
      ],
      signaturesOf: async (manifests) => {
        if (!needsSignature(policy, reference)) return [];
        const found: HeldSignature[] = [];
        // The index first: who signs a multi-platform image signs that.
        for (const digest of manifests)
          for (const fetch of acceptsUnnamed(policy, reference)
            ? [fetchSignatures, fetchBundles]
            : [fetchSignatures]) {
            found.push(...(await fetch(client, digest, work, signal)));
            if (isAccepted(policy, reference, found)) return checkPolicy(policy, reference, found);
          }
        return checkPolicy(policy, reference, found);
      },
    },
  };
}

/** An image in files of this host, under the name `given` or what the source calls it. @throws as importLocal of contract.ts */
export async function localImage(
  { path, transport, reference: wanted }: LocalSource,
  given: Reference | undefined,
  policy: SignaturePolicy,
  work: string,
  signal: AbortSignal,
): Promise<ImageSource> {
  const tagOf = (reference: Reference): string => `${nameOf(reference)}:${reference.tag ?? "latest"}`;
  /** Nobody signs files: under a name that needs it they are refused. */
  const under = (namesOf: (digest: string) => readonly string[]): Naming => ({
    namesOf,
    signaturesOf: async (_, digest) =>
      namesOf(digest).flatMap((one) => checkPolicy(policy, parseReference(one), [])),
  });
  if (transport === "docker-archive") {
    const files = await unpackArchive(path, work, signal);
    const { origin, digest, names } = await findInDockerArchive(files, wanted);
    const own = names.length > 0 ? names : [tagOf(localName(path, ""))];
    // An archive of docker has no manifest of which others would know the digest.
    return { origin, which: digest, naming: under(() => (given ? [tagOf(given)] : own)) };
  }
  let files = directoryFiles(path);
  if (transport === "oci-archive") {
    const unpacked = await unpackArchive(path, work, signal);
    files = (file) => unpacked.open(file);
  }
  const { digest, names } = await findInLayout(files, wanted);
  const reference = given ?? localName(path, names[0] ?? "");
  const naming = under((own) => [tagOf(reference), `${nameOf(reference)}@${own}`]);
  return { origin: layoutOrigin(files), which: digest, naming };
}

/** An error with the files it is about. */
export function withSource(source: LocalSource, cause: unknown): TinderboxError {
  const error = TinderboxError.from(cause);
  return new TinderboxError(error.code, `${formatLocalSource(source)}: ${error.message}`, {
    cause,
    ...(error.hint !== undefined && { hint: error.hint }),
  });
}
