/** Where the project's own files are. Nothing else in the sources computes a path from its own location. */
import { join } from "node:path";

/** The root of the checkout (or of an installation laid out like it). */
export const projectRoot: string = join(import.meta.dirname, "../../../..");

/** The launchers and the native program. */
export const binDirectory: string = join(projectRoot, "bin");

/** The multi-call Rust program. `TINDERBOX_NATIVE` overrides. */
export const nativeProgram: string =
  process.env["TINDERBOX_NATIVE"] ?? join(binDirectory, "tinderbox-native");

/** Where `tinderbox guest build` puts its artefacts when not told otherwise. */
export const guestDirectory: string = process.env["TINDERBOX_GUEST_DIR"] ?? join(projectRoot, ".cache/guest");
