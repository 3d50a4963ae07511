// Preloaded (`node --import`): sends what goes to the canonical content hosts to the server under test,
// which knows them by their Host header. The SDK's get() reads from nowhere else.
import { Agent, setGlobalDispatcher } from 'undici';

const server = () => new URL(process.env.VERCEL_BLOB_API_URL).origin;

const toServer = (dispatch) => (options, handler) => {
  const { host } = new URL(options.origin);
  if (!host.endsWith('.blob.vercel-storage.com')) return dispatch(options, handler);
  return dispatch({ ...options, origin: server(), headers: { ...options.headers, host } }, handler);
};

setGlobalDispatcher(new Agent().compose(toServer));
