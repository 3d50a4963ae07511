// Preloaded (`node --import`): goes through HTTPS_PROXY, as Node 24 does by itself with NODE_USE_ENV_PROXY=1.
import { EnvHttpProxyAgent, setGlobalDispatcher } from 'undici';

setGlobalDispatcher(new EnvHttpProxyAgent());
