/** The tus project's own server, with a collection for each check. */
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";

/** How long a request may lock an upload that another one requests, in ms. */
const LOCK_DRAIN = 10;
const PATH = "/files";

/** Its uploads are kept in a folder. */
export class Uploads {
  readonly #directory: string;
  readonly #server: Server;

  constructor(directory: string) {
    this.#directory = directory;
    this.#server = new Server({
      path: PATH,
      datastore: new FileStore({ directory }),
      lockDrainTimeout: LOCK_DRAIN,
      postReceiveInterval: LOCK_DRAIN,
      relativeLocation: true,
    });
  }

  /**
   * Handles a request for an upload, or for the collection.
   *
   * @param collection The path of the collection.
   * @param created Called with the name of an upload that it creates.
   */
  async handle(
    request: Request,
    body: ReadableStream<Uint8Array> | null,
    collection: string,
    created: (name: string) => void,
  ): Promise<Response> {
    const { method, headers, signal } = request;
    const url = new URL(request.url);
    url.pathname = PATH + url.pathname.slice(collection.length);
    const response = await this.#server.handleWeb(
      new Request(url, { method, headers, body, signal }),
    );
    const location = response.headers.get("Location");
    if (location === null) return response;
    const name = location.split("/").at(-1)!;
    created(name);
    const moved = new Headers(response.headers);
    moved.set("Location", `${collection}/${name}`);
    const { status } = response;
    return new Response(response.body, { status, headers: moved });
  }

  /** What there is of an upload, which may have been removed. */
  read(name: string): { bytes: Uint8Array; complete: boolean } {
    const path = `${this.#directory}/${name}`;
    try {
      const bytes = Deno.readFileSync(path);
      const { size } = JSON.parse(Deno.readTextFileSync(`${path}.json`));
      return { bytes, complete: size === bytes.length };
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      return { bytes: new Uint8Array(), complete: false };
    }
  }
}
