-- What wrk sends: a request of the size that a browser makes. Arguments after `--`: "close", "post", "sticky".
function init(args)
  wrk.headers["Host"] = "bench.example.com"
  wrk.headers["User-Agent"] =
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
  wrk.headers["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"
  wrk.headers["Accept-Language"] = "de-CH,de;q=0.8,fr;q=0.6,en;q=0.4"
  wrk.headers["Accept-Encoding"] = "gzip, deflate, br"
  wrk.headers["Referer"] = "http://bench.example.com/orders?page=3&sort=date"
  wrk.headers["Cookie"] =
    "session=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef; csrf=0123456789abcdef0123456789abcdef0123456789abcdef; theme=dark; seen=1"
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
    elseif word == "sticky" then
      keep_session()
    end
  end
end

-- A cookie that the proxy sets is sent back from then on, as a browser does; all connections are one browser.
function keep_session()
  local others = wrk.headers["Cookie"]
  local kept = false
  response = function(_, headers)
    local set = headers["Set-Cookie"] or headers["set-cookie"]
    if set and not kept then
      kept = true
      wrk.headers["Cookie"] = others .. "; " .. set:match("^[^;]+")
    end
  end
  request = function()
    return wrk.format()
  end
end
