// Where the native program is that has the devices and makes the system calls that Node lacks.
import { join } from "node:path";

/** tinderbox-native; TINDERBOX_NATIVE names another one. */
export const nativeProgram =
  process.env["TINDERBOX_NATIVE"] ?? join(import.meta.dirname, "../../../../bin/tinderbox-native");
