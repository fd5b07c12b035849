/**
 * The public types compile for everyone: the declarations that a registry makes
 * of each entry point, in a consumer's strictest settings, with the types of the
 * DOM alone and with those of Node alone.
 */
import { assertEquals } from "@std/assert";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import config from "../deno.json" with { type: "json" };
import { temporary } from "../testing/temporary.ts";

const ROOT = new URL("../", import.meta.url);
const CONSUMER = new URL("testing/consumer.ts", ROOT);
/** The command is run, not imported. */
const { "./cli": _, ...ENTRIES } = config.exports;

const OPTIONS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  noUnusedLocals: true,
  skipLibCheck: false,
  noEmit: true,
};
const LIB = ["lib.es2022.d.ts", "lib.esnext.disposable.d.ts"];
const PLATFORMS: Record<string, ts.CompilerOptions> = {
  "the DOM": {
    lib: [...LIB, "lib.dom.d.ts", "lib.dom.iterable.d.ts"],
    types: [],
  },
  "Node": { lib: LIB, types: ["node"] },
};
/** Names that each platform lacks: if they compile, the test proves nothing. */
const LEAKS: Record<string, string[]> = {
  "the DOM": ["Deno.HttpClient", "NodeJS.Timeout"],
  "Node": ["Deno.HttpClient", "HTMLElement", "HeadersInit", "BufferSource"],
};

function messagesOf(diagnostics: readonly ts.Diagnostic[]): string[] {
  return diagnostics.map(({ file, start, messageText }) => {
    const text = ts.flattenDiagnosticMessageText(messageText, "\n");
    if (file === undefined) return text;
    const { line } = file.getLineAndCharacterOfPosition(start ?? 0);
    return `${file.fileName}:${line + 1}: ${text}`;
  });
}

/**
 * The declarations of all entry points and of what they import, by path. It
 * fails if an export has a type that is not written down: registries make
 * declarations without inference, each from its file alone.
 */
function packageDeclarations(): Map<string, string> {
  const root = fileURLToPath(ROOT);
  const paths = Object.values(ENTRIES).map((path) => join(root, path));
  const program = ts.createProgram(paths, {
    ...OPTIONS,
    lib: LIB, // what is in no library stays as it is written
    types: [],
    noEmit: false,
    declaration: true,
    emitDeclarationOnly: true,
    isolatedDeclarations: true,
    allowImportingTsExtensions: true,
  });
  assertEquals(messagesOf(program.getDeclarationDiagnostics()), []);
  const declarations = new Map<string, string>();
  program.emit(undefined, (path, text) => {
    // In a package they stand beside JavaScript.
    const published = text.replace(/(from ".*)\.ts"/g, '$1.js"');
    declarations.set(relative(root, path), published);
  });
  return declarations;
}

/** A project that has installed the package, and the types of Node. */
async function project() {
  const folder = await temporary();
  const write = (path: string, content: string) => {
    const file = folder.file(path);
    Deno.mkdirSync(file.slice(0, file.lastIndexOf("/")), { recursive: true });
    Deno.writeTextFileSync(file, content);
    return file;
  };
  const version = config.imports["@types/node"].replace(/^.*@/, "");
  write(
    "package.json",
    JSON.stringify({
      type: "module",
      devDependencies: { "@types/node": version },
    }),
  );
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["install", "--quiet", "--no-lock"],
    cwd: folder.file("."),
  }).output();
  assertEquals(success, true, new TextDecoder().decode(stderr));

  const home = `node_modules/${config.name}`;
  for (const [path, text] of packageDeclarations()) {
    write(`${home}/${path}`, text);
  }
  const exports = Object.fromEntries(
    Object.entries(ENTRIES).map(([name, path]) => [name, {
      types: path.replace(/\.ts$/, ".d.ts"),
    }]),
  );
  write(`${home}/package.json`, JSON.stringify({ type: "module", exports }));
  return Object.assign(folder, { write });
}

const specifiers = Object.keys(ENTRIES).map((name) =>
  `${config.name}${name.slice(1)}`
);

for (const [platform, options] of Object.entries(PLATFORMS)) {
  Deno.test(`the public types compile with the types of ${platform} alone`, async () => {
    await using folder = await project();
    const consumer = folder.write(
      "consumer.ts",
      Deno.readTextFileSync(CONSUMER),
    );
    // Names every export of every entry point, in case the consumer does not.
    const all = folder.write(
      "all.ts",
      specifiers.map((specifier, i) =>
        `export * as entry${i} from "${specifier}";\n`
      ).join(""),
    );
    const leaks = folder.write(
      "leaks.ts",
      LEAKS[platform]!.map((name, i) => `export type Leak${i} = ${name};\n`)
        .join(""),
    );
    const host = ts.createCompilerHost(OPTIONS);
    host.getCurrentDirectory = () => folder.file("."); // where types are sought
    const files = [consumer, all, leaks];
    const program = ts.createProgram(files, { ...OPTIONS, ...options }, host);
    const diagnostics = ts.getPreEmitDiagnostics(program);
    const isLeak = ({ file }: ts.Diagnostic) => file?.fileName === leaks;
    assertEquals(messagesOf(diagnostics.filter((d) => !isLeak(d))), []);
    assertEquals(diagnostics.filter(isLeak).length, LEAKS[platform]!.length);

    // The consumer uses every name.
    const checker = program.getTypeChecker();
    const exported = new Set<string>();
    for (const statement of program.getSourceFile(all)!.statements) {
      const { moduleSpecifier } = statement as ts.ExportDeclaration;
      const module = checker.getSymbolAtLocation(moduleSpecifier!)!;
      for (const { name } of checker.getExportsOfModule(module)) {
        exported.add(name);
      }
    }
    const used = new Set<string>();
    for (const statement of program.getSourceFile(consumer)!.statements) {
      if (!ts.isImportDeclaration(statement)) continue;
      const bindings = statement.importClause!.namedBindings as ts.NamedImports;
      for (const { name } of bindings.elements) used.add(name.text);
    }
    assertEquals([...used].sort(), [...exported].sort());
  });
}
