/** Certificates for servers on this machine, made by openssl. */

/** Makes a key and a self-signed certificate for 127.0.0.1; returns their paths. */
export async function makeCertificate(
  folder: string,
): Promise<{ key: string; cert: string }> {
  const [key, cert] = [`${folder}/key.pem`, `${folder}/cert.pem`];
  const { success, stderr } = await new Deno.Command("openssl", {
    args: [
      "req",
      "-x509",
      "-nodes",
      ..."-newkey ec -pkeyopt ec_paramgen_curve:prime256v1".split(" "),
      ..."-days 2 -subj /CN=127.0.0.1".split(" "),
      ..."-addext subjectAltName=IP:127.0.0.1".split(" "),
      ..."-addext basicConstraints=critical,CA:FALSE".split(" "),
      ...["-keyout", key, "-out", cert],
    ],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) {
    throw new Error(`openssl failed: ${new TextDecoder().decode(stderr)}`);
  }
  return { key, cert };
}
