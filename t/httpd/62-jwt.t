#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Tokens: which are taken and which are refused, how that is said, who learns what is in them, and that no log ever holds one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;
use File::Path qw(make_path);

my @tokens;    # everything that was ever sent and must be in no log

sub sent { push @tokens, $_[0]; return $_[0] }
sub bearer { return [ Authorization => 'Bearer ' . sent($_[0]) ] }

sub keys_in
{
    my ($dir) = @_;
    return { map { $_ => ChatStream::Token->new($_, dir => $dir) } qw(HS256 RS256 PS256 ES256) };
}

my $NONE = 'Bearer realm="localhost"';

# What a refused token is answered with, by RFC 6750.
sub is_refused
{
    my ($answer, $why, $name) = @_;
    is $answer->status, 401, "$name: 401";
    is $answer->header('content-type'), 'application/problem+json', "$name: a problem document";
    is $answer->json->{code}, 'unauthorized', "$name: the code";
    my $challenge = $answer->header('www-authenticate');
    if (defined $why) { like $challenge, qr/^Bearer error="invalid_token", error_description="[^"\\]*$why[^"\\]*"$/, "$name: the challenge" }
    else { is $challenge, $NONE, "$name: a challenge without an error, for nothing was tried" }
    return;
}

sub no_token_in_logs
{
    my ($t, $name) = @_;
    # A signature stands for its token; short ones might be there by chance.
    my @secrets = grep { defined && length > 20 } map { (split /\./)[ 1, 2 ] } @tokens;
    my $logs = $t->error_log . $t->access_log . (slurp($t->dir . '/logs/claims.log') // '');
    is scalar(grep { index($logs, $_) >= 0 } @secrets), 0, "$name: no token is in any log (of " . @secrets . ' parts)';
    unlike $logs, qr/eyJ[\w-]{10}/, "$name: nor anything like one";
    return;
}

# ---- all algorithms, all places, both sinks ------------------------------------------------------------------------------

for my $setup ({ name => 'event' }, { name => 'HTTP/2', ask => { http2 => 1 }, http2 => 1 }, { name => 'prefork', mpm => 'prefork' }) {
    my $name = $setup->{name};
    my %ask = %{ $setup->{ask} || {} };
    my $t = ChatStream::Test->new(
        log_level => 'debug', start => 0,
        map { exists $setup->{$_} ? ($_ => $setup->{$_}) : () } qw(mpm http2),
    );
    my $keys = keys_in($t->dir);
    my @all = map { "ChatStreamJWTKey $_ " . $keys->{$_}->file } sort keys %$keys;
    $t->httpd->{server_config} = <<'END';
LogFormat "%U user=%u sub=%{CHATSTREAM_CLAIM_SUB}e email=%{CHATSTREAM_CLAIM_EMAIL}e role=%{CHATSTREAM_CLAIM_ROLE}e" claims
CustomLog "logs/claims.log" claims
END
    $t->httpd->{config} = qq(CustomLog "logs/claims.log" claims\n)
        . chat('/required', 'sse?tokens=2', 'ChatStreamAuth required', @all)
        . chat('/optional', 'sse?tokens=2', @all)
        . chat('/off',      'sse?tokens=2', 'ChatStreamAuth off', @all)
        . chat('/keyless',  'sse?tokens=2');
    $t->start;

    for my $alg (sort keys %$keys) {
        my $token = $keys->{$alg}->sign({ sub => "anna-$alg", email => "anna-$alg\@example.com", role => 'admin', exp => time + 60 });
        for my $place (
            ['the header', '/required?message=hi', headers => bearer($token)],
            ['the query',  "/required?message=hi&token=$token"],
            ['JSON',       '/required', json => { message => 'hi', token => $token }],
            ['a form',     '/required', body => "message=hi&token=$token", headers => [ 'Content-Type' => 'application/x-www-form-urlencoded' ]],
            ) {
            my ($where, $path, @rest) = @$place;
            my $answer = $t->request($path, @rest, %ask);
            is $answer->status, 200, "$name, $alg in $where: taken" or diag $answer->body;
            next if !$answer->complete;
            my ($asked) = ($t->upstream->requests)[-1];
            my $body = JSON::PP::decode_json($asked->{body});
            is "$body->{user} $body->{user_email} $body->{user_role}", "anna-$alg anna-$alg\@example.com admin",
                "$name, $alg in $where: and the upstream knows who asks";
            unlike join(' ', %{ $asked->{headers} }, $asked->{body}), qr/eyJ/, "$name, $alg in $where: without the token";
        }
    }
    ok wait_until(sub { (() = (slurp($t->dir . '/logs/claims.log') // '') =~ /^\/required user=anna-/mg) >= 16 }, 10),
        "$name: the access log names the user each time";
    like slurp($t->dir . '/logs/claims.log'), qr/^\/required user=anna-ES256 sub=anna-ES256 email=anna-ES256\@example\.com role=admin$/m,
        "$name: and can print claims";

    is_refused($t->request('/required?message=hi', %ask), undef, "$name, required without a token");
    is $t->request('/optional?message=hi', %ask)->status, 200, "$name, optional without one";
    my $bad = $keys->{HS256}->sign({ sub => 'anna', exp => time - 3600 });
    is_refused($t->request('/optional?message=hi', headers => bearer($bad), %ask), 'expired', "$name, optional with a bad one");
    is $t->request('/off?message=hi', headers => bearer($bad), %ask)->status, 200, "$name, off: nobody looks";
    is $t->request('/keyless?message=hi', headers => bearer($bad), %ask)->status, 200, "$name, no key: a token means nothing";
    is_refused($t->request('/required?message=hi', headers => [ Authorization => 'Basic YTpi' ], %ask), undef,
        "$name, another scheme is no token");
    no_token_in_logs($t, $name);
    $t->check;
}

# ---- what is wrong with a token ------------------------------------------------------------------------------------------

my $t = ChatStream::Test->new(
    log_level => 'debug', start => 0, threads => 10, http2 => 1,
    modules   => [qw(authz_user authn_core authn_file auth_basic)],
);
my $dir = $t->dir;
my $keys = keys_in($dir);
my ($hs, $rs, $es) = @$keys{qw(HS256 RS256 ES256)};
my $stranger = ChatStream::Token->new('HS256', dir => $dir);
my $long = ChatStream::Token->new('HS512', dir => $dir);
make_path("$dir/htdocs/private");
open my $file, '>', "$dir/htdocs/private/page.html" or die;
print $file "members only\n";
close $file;
open $file, '>', "$dir/conf/passwords" or die;
chomp(my $hash = `openssl passwd -apr1 secret`);
print $file "anna:$hash\n";
close $file;
open $file, '>', "$dir/conf/template.json" or die;
print $file '{"q":"{message}","who":"{user}","mail":"{user_email}","role":"{user_role}"}';
close $file;

my $hs_key = 'ChatStreamJWTKey HS256 ' . $hs->file;
my $rs_key = 'ChatStreamJWTKey RS256 ' . $rs->file;
my $basic = "AuthType Basic\nAuthName here\nAuthBasicProvider file\nAuthUserFile $dir/conf/passwords\nRequire valid-user";
$t->httpd->{config} = patient()
    . chat('/hs',   'sse?tokens=2', 'ChatStreamAuth required', $hs_key)
    . chat('/rs',   'sse?tokens=2', 'ChatStreamAuth required', $rs_key)
    . chat('/both', 'sse?tokens=2', 'ChatStreamAuth required', $rs_key, $hs_key)
    . chat('/strict', 'sse?tokens=2', 'ChatStreamAuth required', $hs_key, 'ChatStreamJWTIssuer https://issuer.example.com',
        'ChatStreamJWTAudience chat', 'ChatStreamJWTLeeway 0')
    . chat('/wait', 'sse?script=wait', 'ChatStreamAuth required', $hs_key, 'ChatStreamOnDisconnect abort 900')
    . chat('/any',  'sse?script=wait', $hs_key, 'ChatStreamOnDisconnect abort 900')
    . chat('/ends', 'sse?script=late', 'ChatStreamAuth required expire', $hs_key, 'ChatStreamJWTLeeway 0')
    . chat('/goes-on', 'sse?script=late', 'ChatStreamAuth required', $hs_key, 'ChatStreamJWTLeeway 0')
    . chat('/valid', 'sse?tokens=2', $hs_key, 'Require valid-user', 'ChatStreamCORS https://app.example.com')
    . chat('/admin', 'sse?tokens=2', $hs_key, q(Require expr "reqenv('CHATSTREAM_CLAIM_ROLE') == 'admin'"))
    . chat('/basic', 'sse?tokens=2', $hs_key, split /\n/, $basic)
    . chat('/template', 'sse?tokens=2', $hs_key, "ChatStreamRequestTemplate $dir/conf/template.json")
    . qq(<Location "/private">\n$hs_key\nRequire valid-user\n</Location>\n)
    . qq(CustomLog "logs/claims.log" "%U user=%u"\n);
$t->start;
$t->upstream->script(wait => "token a\nwait end\ndone\n");
$t->upstream->script(late => "token a\nwait late\ntoken b\ndone\n");
$t->expect_log(qr/ended as error \(unauthorized\)/);
# httpd's own words about who may not come in.
$t->allow_log(qr/AH0163[01]:|AH01614:|AH00135:|AH01617:|AH01618:/);

sub of { my ($key, %claims) = @_; my $header = delete $claims{header} || {}; return $key->sign({ sub => 'anna', %claims }, %$header) }

my $good = of($hs);
is $t->request('/hs?message=hi', headers => bearer($good))->status, 200, 'a token without exp is its issuer\'s business';
is $t->request('/hs?message=hi', headers => [ Authorization => "bEARER  $good" ])->status, 200, 'the scheme has no case';

my ($head, $payload, $signature) = split /\./, $good;
my $confused = ChatStream::Token->new('HS256', dir => $dir, secret => slurp($rs->file));
my %refused = (
    'expired'                => ['/hs', of($hs, exp => time - 31), 'expired'],
    'not yet valid'          => ['/hs', of($hs, nbf => time + 100), 'not valid yet'],
    'another key'            => ['/hs', of($stranger), 'signature'],
    'none'                   => ['/hs', ChatStream::Token::unsigned({ sub => 'anna' }), 'algorithm'],
    'NoNe'                   => ['/hs', ChatStream::Token::unsigned({ sub => 'anna' }, alg => 'NoNe'), 'algorithm'],
    'none with a signature'  => ['/hs', of($hs, header => { alg => 'none' }), 'algorithm'],
    'no algorithm'           => ['/hs', of($hs, header => { alg => undef }), 'algorithm'],
    'a larger algorithm'     => ['/hs', of($long), 'signature|algorithm'],
    'key confusion'          => ['/rs', of($confused), 'signature|algorithm|key'],
    'key confusion, HS too'  => ['/both', of($confused), 'signature'],
    'RS256 that says PS256'  => ['/rs', of($rs, header => { alg => 'PS256' }), 'signature|algorithm|key'],
    'ES256 for an RSA key'   => ['/rs', of($es), 'signature|algorithm|key'],
    'no subject'             => ['/hs', $hs->sign({ exp => time + 60 }), 'subject'],
    'an empty subject'       => ['/hs', of($hs, sub => ''), 'subject'],
    'a subject of 256 bytes' => ['/hs', of($hs, sub => 'x' x 256), 'subject'],
    'a subject of two lines' => ['/hs', of($hs, sub => "a\nb"), 'subject'],
    'an extension'           => ['/hs', of($hs, header => { crit => ['exp'] }), 'extension'],
    'not JSON'               => ['/hs', $hs->sign('not json'), 'JSON'],
    'another payload'        => ['/hs', join('.', $head, ChatStream::Token::base64url('{"sub":"root"}'), $signature), 'signature'],
    'padded'                 => ['/hs', "$good=", 'JWT'],
    'cut'                    => ['/hs', substr($good, 0, -1), 'JWT|signature'],
    'no signature'           => ['/hs', "$head.$payload.", 'signature|JWT'],
    'two parts'              => ['/hs', "$head.$payload", 'JWT'],
    'no token at all'        => ['/hs', 'x', 'JWT'],
    'no issuer'              => ['/strict', of($hs, aud => 'chat'), 'issuer'],
    'wrong issuer'           => ['/strict', of($hs, iss => 'https://issuer.example.com/', aud => 'chat'), 'issuer'],
    'no audience'            => ['/strict', of($hs, iss => 'https://issuer.example.com'), 'audience'],
    'wrong audience'         => ['/strict', of($hs, iss => 'https://issuer.example.com', aud => ['mail', 'chats']), 'audience'],
    'just expired'           => ['/strict', of($hs, iss => 'https://issuer.example.com', aud => 'chat', exp => time), 'expired'],
);
my $before = $t->upstream->count('requests');
for my $name (sort keys %refused) {
    my ($path, $token, $why) = @{ $refused{$name} };
    is_refused($t->request("$path?message=hi", headers => bearer($token)), "(?:$why)", $name);
}
is $t->upstream->count('requests'), $before, 'the upstream was asked for none of them';
for my $aud ('chat', ['mail', 'chat']) {
    is $t->request('/strict?message=hi', headers => bearer(of($hs, iss => 'https://issuer.example.com', aud => $aud)))->status, 200,
        'the right issuer and audience';
}
is $t->request('/hs?message=hi', headers => bearer(of($hs, exp => time - 5, nbf => time + 10)))->status, 200, 'clocks may differ a little';
is $t->request('/hs?message=hi', headers => bearer(of($hs, header => { kid => 'whatever' })))->status, 200, 'a key from a file has any name';
is $t->request('/both?message=hi', headers => bearer($_))->status, 200, 'a location with two keys takes both' for of($hs), of($rs);

# ---- more than one place, too long -----------------------------------------------------------------------------------------

my %twice = (
    'header and query' => ["/hs?message=hi&token=$good", headers => bearer($good)],
    'header and body'  => ['/hs', headers => bearer($good), json => { message => 'hi', token => $good }],
    'query and body'   => ["/hs?token=$good", json => { message => 'hi', token => $good }],
    'header and query, optional' => ["/any?message=hi&token=$good", headers => bearer($good)],
);
for my $name (sort keys %twice) {
    my $answer = $t->request(@{ $twice{$name} });
    is $answer->status, 400, "$name: 400";
    is $answer->json->{code}, 'bad_request', "$name: the code";
    like $answer->header('www-authenticate'), qr/^Bearer error="invalid_request", error_description="[^"]+"$/, "$name: the challenge";
}

my $huge = of($hs, padding => 'x' x 100_000);
is_refused($t->request('/hs', json => { message => 'hi', token => $huge }), 'too long', 'a token of 100 KB in a body');
is_refused($t->request('/hs', json => { message => 'hi', token => 'a.' x 50_000 }), '(?:too long|JWT)', '100 KB of dots');
is $t->request("/hs?message=hi&token=$huge", timeout => 10)->status, 414, 'in the query it is httpd that refuses it';
is $t->request('/hs?message=hi', headers => bearer($good))->status, 200, 'nothing was harmed';

# ---- a stream belongs to who began it --------------------------------------------------------------------------------------

for my $path ('/wait', '/any') {
    my $bob = of($hs, sub => 'bob');
    my $stream = $t->stream("$path?message=hi", headers => bearer($good));
    $stream->event_of('token');
    my $id = $stream->header('x-stream-id');
    is $t->request("$path?last_event_id=$id:1", headers => bearer($bob))->status, 410, "$path: resumed with another's token";
    is $t->request("$path?stream_id=$id", method => 'DELETE', headers => bearer($bob))->status, 410, "$path: cancelled with another's token";
    my ($resumed, $cancelled) = ($t->request("$path?last_event_id=$id:1"), $t->request("$path?stream_id=$id", method => 'DELETE'));
    if ($path eq '/wait') {
        is_refused($resumed, undef, 'resumed without one');
        is_refused($cancelled, undef, 'cancelled without one');
    }
    else {
        is $resumed->status, 410, "$path: resumed by nobody in particular";
        is $cancelled->status, 410, "$path: cancelled by nobody in particular";
    }
    is_refused($t->request("$path?last_event_id=$id:1", headers => bearer(of($hs, exp => time - 99))), 'expired', "$path: resumed with a bad one");
    my $second = $t->stream("$path?last_event_id=$id:1&token=" . sent(of($hs, exp => time + 60)));
    is $second->event_of('token')->{json}{content}, 'a', "$path: a newer token of the same user resumes";
    is $t->request("$path?stream_id=$id", method => 'DELETE', headers => bearer($good))->status, 200, "$path: and cancels";
    is $stream->event_of('error')->{json}{code}, 'cancelled', "$path: which ends it";
    $_->close for $stream, $second;
}

# ---- httpd's own access control --------------------------------------------------------------------------------------------

my $answer = $t->request('/valid?message=hi', headers => [ Origin => 'https://app.example.com' ]);
is_refused($answer, undef, 'Require valid-user without a token');
is $answer->header('access-control-allow-origin'), 'https://app.example.com', 'a page may read that';
$answer = $t->request('/valid?message=hi', headers => [ Origin => 'https://app.example.com', @{ bearer(of($stranger)) } ]);
is_refused($answer, 'signature', 'Require valid-user with a bad one');
is $answer->header('access-control-allow-origin'), 'https://app.example.com', 'a page may read that too';
is $t->request('/valid?message=hi', headers => bearer($good))->status, 200, 'Require valid-user with a good one';
is $t->request("/valid?message=hi&token=$good")->status, 200, 'in the query too';

is $t->request('/private/page.html')->status, 401, 'a static page without a token';
is $t->request('/private/page.html')->header('www-authenticate'), $NONE, 'with the challenge';
$answer = $t->request('/private/page.html', headers => bearer($good));
is $answer->status, 200, 'a static page with one';
is $answer->body, "members only\n", 'and its text';
ok wait_until(sub { (slurp("$dir/logs/claims.log") // '') =~ m{^/private/page\.html user=anna$}m }, 10), 'the log knows who read it';

is $t->request('/admin?message=hi', headers => bearer(of($hs, role => 'admin')))->status, 200, 'Require expr on a claim: it holds';
is $t->request('/admin?message=hi', headers => bearer(of($hs, role => 'guest')))->status, 403, 'another value';
is $t->request('/admin?message=hi&user_role=admin')->status, 403, 'a parameter is no claim';

my @password = (Authorization => 'Basic ' . MIME::Base64::encode_base64('anna:secret', ''));
my $bob = of($hs, sub => 'bob', email => 'bob@example.com');
is $t->request('/basic?message=hi', headers => bearer($bob))->status, 401, 'where another module asks for a password, a token is none';
is $t->request("/basic?message=hi&token=$bob")->status, 401, 'wherever it stands';
is $t->request('/basic?message=hi', headers => [@password])->status, 200, 'the password is enough';
is JSON::PP::decode_json(($t->upstream->requests)[-1]{body})->{user}, 'anna', 'and says who asks';
is $t->request("/basic?message=hi&token=" . sent($bob), headers => [@password])->status, 200, 'with somebody else\'s token beside it';
my $told = JSON::PP::decode_json(($t->upstream->requests)[-1]{body});
is $told->{user}, 'anna', 'it is still the other module that says who';
isnt $told->{user_email} // '', 'bob@example.com', 'and nobody gets another\'s address';
ok wait_until(sub { (() = (slurp("$dir/logs/claims.log") // '') =~ m{^/basic user=anna$}mg) == 2 }, 10), 'so does the log';

# ---- claims and the template -----------------------------------------------------------------------------------------------

$t->request('/template?message=hi&user_email=evil@example.com&user_role=root',
    headers => bearer(of($hs, email => 'anna@example.com', role => qq(a"b\\c))));
is_deeply(JSON::PP::decode_json(($t->upstream->requests)[-1]{body}),
    { q => 'hi', who => 'anna', mail => 'anna@example.com', role => qq(a"b\\c) }, 'claims fill the template, parameters do not');
$t->request('/template?message=hi&user_email=evil@example.com&user_role=root', headers => bearer($good));
$told = JSON::PP::decode_json(($t->upstream->requests)[-1]{body});
ok !$told->{mail} && !$told->{role}, 'a token without them: nobody else may say them either';

# ---- a token that runs out in mid-stream -------------------------------------------------------------------------------------

my $short = of($hs, exp => time + 2);
my $blocking = $t->stream('/ends?message=hi', headers => bearer($short), http2 => 1);
my ($ends, $goes_on) = map { $t->stream("$_?message=hi", headers => bearer($short)) } '/ends', '/goes-on';
is $_->event_of('token')->{json}{content}, 'a', 'the token is good at first' for $ends, $goes_on, $blocking;
my $aborted = $t->upstream->count('aborted');
my $error = $ends->next_event->{json};
is "$error->{type} $error->{code}", 'error unauthorized', 'required expire: the stream ends with its token';
ok !$error->{retryable}, 'the same token will not do better';
cmp_ok time, '>=', (JSON::PP::decode_json(MIME::Base64::decode_base64url((split /\./, $short)[1])))->{exp} - 1, 'not before';
is $ends->next_event, undef, 'properly';
is $blocking->next_event->{json}{code}, 'unauthorized', 'over HTTP/2 too';
ok $t->upstream->wait_for(aborted => $aborted + 2), 'the upstream is left';
is_refused($t->request('/ends?message=hi', headers => bearer($short)), 'expired', 'it opens no other');
$t->upstream->signal('late');
is $goes_on->answer, 'b', 'required: it only has to be good at the start';
my $forever = $t->request('/ends?message=hi', headers => bearer($good));
is $forever->answer, 'ab', 'a token without an end lets the stream come to its own';
$_->close for $ends, $goes_on, $blocking;

no_token_in_logs($t, 'everything');

# ---- keys that are none ------------------------------------------------------------------------------------------------------

my %wrong = (
    'a secret of 8 bytes'   => ['HS256', 'password'],
    'an empty secret'       => ['HS256', ''],
    'no PEM'                => ['RS256', 'nothing'],
    'a PEM of another kind' => ['ES256', slurp($rs->file)],
    'an unknown algorithm'  => ['XS256', 'x' x 64],
    'none'                  => ['none', 'x' x 64],
);
for my $name (sort keys %wrong) {
    my ($alg, $bytes) = @{ $wrong{$name} };
    open my $handle, '>:raw', "$dir/conf/wrong.key" or die;
    print $handle $bytes;
    close $handle;
    my $started = eval { ChatStream::Test->new(upstreams => [], config => "ChatStreamJWTKey $alg $dir/conf/wrong.key\n"); 1 };
    ok !$started, "$name: httpd does not start";
    like $@, qr/ChatStreamJWTKey/, "$name: and names the directive";
    unlike $@, qr/password/, "$name: not the secret";
}
$t->done;
