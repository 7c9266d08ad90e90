/** Where the benchmark finds what `tools/setup.sh` has built. */
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
export const bin: string = join(root, "bin");
export const guest: string = join(root, ".cache/guest");
/** containerd, its shim and runc */
export const peers: string = join(root, ".cache/peers");
/** critest */
export const clients: string = join(root, "tests/clients/bin");
