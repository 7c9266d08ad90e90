/** What version this is. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { projectRoot } from "./paths.ts";

function ownVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(join(projectRoot, "package.json"), "utf8"));
  const found =
    typeof manifest === "object" && manifest !== null && "version" in manifest ? manifest.version : undefined;
  return typeof found === "string" ? found : "0.0.0";
}

/** Read once: an upgrade may change the file while this runs. */
export const tinderboxVersion: string = ownVersion();
