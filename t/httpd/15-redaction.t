#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Nothing a user says reaches a log: words planted in token, message, query and conversation_history, in every way a client
# can send them, appear in no file under the log directory, at the loudest log level, nor on the status page. (mod_http2
# writes the wire to a log from trace1 on, and paths to the status page; that is its own.)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $planted = 0;
sub plant { return sprintf 'PLANTED%03d', ++$planted }

# Both spell 'PLANTED' for grep -a below: as it is, and percent-encoded.
sub encoded { my $text = plant(); $text =~ s/(.)/sprintf '%%%02X', ord $1/ge; return $text }

my $log = <<'END';
ExtendedStatus On
LogFormat "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"" all_combined
CustomLog logs/combined.log all_combined
CustomLog logs/more.log "%r|%q|%U|%m|%{Referer}i|%{REDIRECT_QUERY_STRING}e|%>r|%<r|%>q|%<q|%f|%R"
ChatStreamMaxStreams 100
END
my $config = chat('/chat', 'sse?tokens=2')
    . chat('/wait', 'sse?script=wait')
    . chat('/off', 'sse?tokens=2', 'ChatStreamEnabled Off')
    . chat('/forbidden', 'sse?tokens=2', 'Require all denied')
    . chat('/fail', 'sse?status=500')
    . <<'END';
<Location "/server-status">
    SetHandler server-status
</Location>
<Location "/moved">
    RewriteEngine On
    RewriteRule .* /chat [PT]
</Location>
ErrorDocument 404 /chat?message=lost
END

# What is in any file of the log directory or on the status page that must not be.
sub leaks
{
    my ($t) = @_;
    my @found;
    for my $file (glob $t->dir . '/logs/*') {
        my $text = slurp($file);
        push @found, "$file: $1" while $text =~ /^(.*(?:PLANTED|%50%4C%41|%50LANT).*)$/mgi;
    }
    return @found;
}

sub none
{
    my ($name, $t) = @_;
    my @found = leaks($t);
    ok !@found, "$name: nothing in the logs" or diag join "\n", @found[ 0 .. ($#found < 9 ? $#found : 9) ];
    return;
}

my $form = 'application/x-www-form-urlencoded';

for my $setup ({ mpm => 'event', tls => 1, http2 => 1 }, { mpm => 'worker' }) {
    my $mpm = $setup->{mpm};
    my $t = ChatStream::Test->new(
        %$setup, config => $config, server_config => $log, modules => [qw(status rewrite)],
        log_level => 'trace8' . ($setup->{http2} ? ' http2:debug' : ''),
    );
    my $status_page = sub { my $page = $t->request('/server-status'); return $page->body };
    my $ask = sub {
        my ($name, $status, $path, %options) = @_;
        my $answer = $t->request($path, %options);
        is $answer->status, $status, "$mpm, $name: $status";
        unlike $status_page->(), qr/PLANTED/, "$mpm, $name: nothing on the status page";
    };

    $ask->('query string', 200, '/chat?token=' . plant() . '&message=' . plant() . '%20' . plant() . '&query=' . plant());
    $ask->('history', 200, '/chat?message=a&conversation_history=%5B%7B%22role%22:%22user%22,%22content%22:%22' . plant() . '%22%7D%5D');
    $ask->('encoded name', 200, '/chat?mess%61ge=' . plant() . '&%74oken=' . plant());
    $ask->('encoded word', 200, '/chat?message=' . encoded());
    $ask->('odd letters in it', 200, '/chat?message=a;b=c?d:' . plant() . '=' . plant() . "'");
    $ask->('letters that must not be', 400, '/chat?message=' . plant() . '"#' . plant());
    $ask->('upper case', 400, '/chat?Message=' . plant());
    $ask->('JSON', 200, '/chat', json => { message => plant(), token => plant(),
        conversation_history => [ { role => 'user', content => plant() } ] });
    $ask->('JSON that is none', 400, '/chat', headers => { 'Content-Type' => 'application/json' }, body => '{"message":"' . plant());
    $ask->('form', 200, '/chat', headers => { 'Content-Type' => $form }, body => 'message=' . plant() . '&token=' . plant());
    $ask->('form and query string', 200, '/chat?token=' . plant(), headers => { 'Content-Type' => $form }, body => 'message=a');
    $ask->('Referer', 200, '/chat?message=a', headers => { Referer => 'http://localhost/page?message=' . plant() . '&x=1&token=' . plant() });
    $ask->('Referer with an encoded name', 200, '/chat?message=a', headers => { Referer => 'http://localhost/?quer%79=' . plant() });
    $ask->('Referer, refused', 403, '/forbidden', headers => { Referer => 'http://localhost/?message=' . plant() });
    $ask->('a bad request', 400, '/chat?message=' . plant() . '%FF');
    $ask->('bad encoding', 400, '/chat?message=' . plant() . '%zz');
    $ask->('streaming off', 404, '/off?message=' . plant() . '&token=' . plant());
    $ask->('forbidden', 403, '/forbidden?message=' . plant());
    $ask->('forbidden, posted', 403, '/forbidden?token=' . plant(), headers => { 'Content-Type' => $form }, body => 'message=' . plant());
    $ask->('wrong method', 405, '/chat?message=' . plant(), method => 'PUT', body => plant());
    $ask->('OPTIONS', 204, '/chat?message=' . plant(), method => 'OPTIONS');
    $ask->('HEAD', 200, '/chat?message=' . plant(), method => 'HEAD');
    $ask->('DELETE', 400, '/chat?stream_id=x&token=' . plant(), method => 'DELETE');
    $ask->('an upstream that fails', 502, '/fail?message=' . plant());
    $ask->('resume of nothing', 410, '/chat?last_event_id=x&message=' . plant());
    $ask->('too long a line', 414, '/chat?message=' . plant() . 'x' x 9000 . plant());
    $ask->('too long a header', 400, '/chat?message=' . plant(), headers => { Referer => '?message=' . plant() . 'x' x 9000 });
    $ask->('too many headers', 400, '/chat?message=' . plant(), headers => [ map { ("X-$_" => 'x') } 1 .. 200 ]);
    $ask->('an unknown version', 400, '/chat?message=' . plant(), version => '1.x' . plant());
    $ask->('a line of four words', 400, '/chat?message=' . plant() . ' ' . plant());
    $ask->('rewritten', 200, '/moved?message=' . plant());
    $ask->('an ErrorDocument', 200, '/nowhere?message=' . plant(), headers => { Referer => '?token=' . plant() });
    if ($setup->{http2}) {
        $ask->('TLS', 200, '/chat?message=' . plant(), tls => 1);
        $ask->('HTTP/2 and TLS', 200, '/chat', http2 => 1, tls => 1, json => { message => plant() });
    }
    none($mpm, $t);

    # While it runs, and while the body is still on its way.
    $t->upstream->reset;
    $t->upstream->script(wait => "token a\nwait end\ndone\n");
    my $stream = $t->stream('/wait?message=' . plant() . '&token=' . plant());
    $stream->event_of('token');
    unlike $status_page->(), qr/PLANTED/, "$mpm: a stream that runs is on no status page";
    $t->upstream->signal('end');
    $stream->events;
    $stream->close;
    my $slow = $t->open('/', raw => 'POST /wait?token=' . plant()
            . " HTTP/1.1\r\nHost: localhost\r\nContent-Type: $form\r\nExpect: 100-continue\r\nContent-Length: 20\r\n\r\n");
    $slow->_fill(Time::HiRes::time() + 10) until $slow->{input} =~ /100 Continue/;
    unlike $status_page->(), qr/PLANTED/, "$mpm: nor one whose body is still to come";
    $slow->send('message=' . plant() . 'xx');
    $slow->event_of('token');
    $slow->close;
    $t->wait_active(0);

    # Last, because mod_http2 itself tells the status page of paths.
    if ($setup->{http2}) {
        is $t->request('/chat?message=' . plant() . '&token=' . plant(), http2 => 1,
            headers => { Referer => 'http://localhost/page?message=' . plant() })->status, 200, "$mpm, HTTP/2: 200";
        is $t->request('/forbidden?message=' . plant(), http2 => 1)->status, 403, "$mpm, HTTP/2, forbidden: 403";
    }

    # What the log says instead.
    my $access = $t->access_log;
    like $access, qr{"GET /chat\?token=\[redacted\]&message=\[redacted\]&query=\[redacted\] HTTP/1.1" 200 .* \?token=\[redacted\]&message=\[redacted\]&query=\[redacted\]$}m,
        "$mpm: %r and %q keep their shape";
    like $access, qr{"GET /chat\?mess%61ge=\[redacted\]&%74oken=\[redacted\] HTTP/1.1"}, "$mpm: an encoded name stays as it was";
    like $access, qr{"http://localhost/page\?message=\[redacted\]&x=1&token=\[redacted\]"}, "$mpm: the referrer keeps the rest";
    like $access, qr{"DELETE /chat\?stream_id=x&token=\[redacted\] HTTP/1.1" 400}, "$mpm: what is no secret stays";
    like slurp($t->dir . '/logs/combined.log'), qr{"GET /forbidden\?message=\[redacted\] HTTP/1.1" 403}, "$mpm: combined";
    $t->expect_log(qr/ended as error \(upstream_error\).*answered 500/, qr/AH01630|authz_core:error/);
    $t->allow_log(qr/\[core:(?:error|warn|info|debug)\]/);
    $t->check;
    none("$mpm, at the end", $t);
}
cmp_ok $planted, '>', 100, 'words were planted';
done_testing();
