-- What wrk sends: a request of the size that a browser makes. Arguments after `--`: "close", "post".
function init(args)
  wrk.headers["Host"] = "bench.example.com"
  wrk.headers["User-Agent"] =
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
  wrk.headers["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"
  wrk.headers["Accept-Language"] = "de-CH,de;q=0.8,fr;q=0.6,en;q=0.4"
  wrk.headers["Accept-Encoding"] = "gzip, deflate, br"
  wrk.headers["Referer"] = "http://bench.example.com/orders?page=3&sort=date"
  wrk.headers["Cookie"] = "session=" .. string.rep("0123456789abcdef", 8) .. "; theme=dark; seen=1"
  wrk.headers["Upgrade-Insecure-Requests"] = "1"
  wrk.headers["Sec-Fetch-Mode"] = "navigate"
  wrk.headers["Sec-Fetch-Site"] = "same-origin"
  for _, word in ipairs(args) do
    if word == "close" then
      wrk.headers["Connection"] = "close"
    elseif word == "post" then
      wrk.method = "POST"
      wrk.headers["Content-Type"] = "application/octet-stream"
      wrk.body = string.rep("x", 10240)
    end
  end
end
