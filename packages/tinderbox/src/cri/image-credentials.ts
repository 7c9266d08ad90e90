/** CRI's AuthConfig as credentials for a registry. */
import { parseBasic } from "../image/auth-files.ts";
import type { PullOptions, RegistryAuth } from "../image/contract.ts";
import type { AuthConfig } from "../rpc/gen/runtime/v1/api_pb.ts";
import { invalid } from "./field-checks.ts";

function credentialsIn(auth: AuthConfig): RegistryAuth | undefined {
  if (auth.registryToken !== "") return { kind: "registry-token", token: auth.registryToken };
  if (auth.identityToken !== "") return { kind: "identity-token", token: auth.identityToken };
  if (auth.auth !== "") {
    const basic = parseBasic(auth.auth);
    if (basic === undefined) throw invalid("auth.auth", "(hidden)", "base64 of user:password");
    return basic;
  }
  if (auth.username === "" && auth.password === "") return undefined;
  return { kind: "basic", username: auth.username, password: auth.password };
}

/** What a pull is told of credentials, and of the registry they are for. Values never appear in errors. */
export function credentialsFor(auth: AuthConfig | undefined): Pick<PullOptions, "auth" | "authServer"> {
  const credentials = auth && credentialsIn(auth);
  return credentials ? { auth: credentials, authServer: auth.serverAddress } : {};
}
